/* tokenizer_open.c - finding a tokenizer: in a file of one of three formats, or in a directory.
 *
 * A directory may hold the same tokenizer twice.  The SentencePiece file is the original and goes first,
 * unless the tokenizer.json knows more ids (tokens were added when the model was tuned).  Files beside it
 * say which tokens begin and end a text; they change no id of what is encoded, but for the beginning and
 * end that a SentencePiece file itself cannot ask for.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/json.h"
#include "model/file.h"
#include "model/gguf.h"
#include "model/tokenizer_parts.h"

enum { MAX_FILE_BYTES = 64 << 20, MAX_CONFIG_BYTES = 8 << 20, CONFIG_DEPTH = 32, MAX_NAME = 512 };

static enum m2_err no_memory(const char *what, struct m2_why *why)
{
	return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
}

/* ---- one file ---- */

/* The first bytes decide: suffixes of tokenizers are many. */
static enum m2_err is_gguf(const char *path, bool *gguf, struct m2_why *why)
{
	char magic[4] = {0};
	int fd;
	const enum m2_err err = m2_file_open(AT_FDCWD, path, path, &fd, why);
	if (err != M2_OK)
		return err;
	*gguf = pread(fd, magic, sizeof magic, 0) == (ssize_t)sizeof magic &&
		memcmp(magic, "GGUF", sizeof magic) == 0;
	(void)close(fd);
	return M2_OK;
}

static enum m2_err open_gguf(const char *path, struct m2_tokenizer **out, struct m2_why *why)
{
	struct m2_gguf *gguf = NULL;
	enum m2_err err = m2_gguf_open(AT_FDCWD, path, &gguf, NULL, why);
	if (err == M2_OK)
		err = m2_gguf_tokenizer(gguf, out, why);
	m2_gguf_close(&gguf);
	return err;
}

static enum m2_err parse_file(const char *path, struct m2_tokenizer **out, struct m2_why *why)
{
	char *text;
	size_t length;
	enum m2_err err = m2_file_read(AT_FDCWD, path, path, MAX_FILE_BYTES, &text, &length, why);
	if (err != M2_OK)
		return err;
	const size_t blank = strspn(text, " \t\r\n");
	err = text[blank] == '{' || text[blank] == '['
		      ? m2_tokenizer_parse(text, length, path, out, why)
		      : m2_tokenizer_parse_spm(text, length, path, out, why);
	free(text);
	return err;
}

static enum m2_err open_file(const char *path, struct m2_tokenizer **out, struct m2_why *why)
{
	bool gguf = false;
	enum m2_err err = is_gguf(path, &gguf, why);
	if (err == M2_OK)
		err = gguf ? open_gguf(path, out, why) : parse_file(path, out, why);
	if (err != M2_OK)
		return err;
	(*out)->path = strdup(path);
	if ((*out)->path != NULL)
		return M2_OK;
	m2_tokenizer_close(out);
	return no_memory(path, why);
}

/* ---- what lies beside it ---- */

/* "</s>" or {"content": "</s>"}: its id, if the tokenizer has it. */
static void take_token(
	const struct m2_tokenizer *t, struct json_object *config, const char *key, int32_t *id)
{
	struct json_object *value = NULL;
	if (!json_object_object_get_ex(config, key, &value))
		return;
	if (json_object_is_type(value, json_type_object) &&
		!json_object_object_get_ex(value, "content", &value))
		return;
	if (!json_object_is_type(value, json_type_string))
		return;
	const char *text = json_object_get_string(value);
	const size_t length = (size_t)json_object_get_string_len(value);
	int32_t found = m2_tokenizer_special(t, text, length);
	if (found < 0)
		found = m2_word_find(t, (const unsigned char *)text, length);
	if (found >= 0)
		*id = found;
}

/* The file `name` beside `path`, if it is there. */
static enum m2_err read_beside(
	const char *path, const char *name, struct json_object **out, struct m2_why *why)
{
	const char *slash = strrchr(path, '/');
	const int directory = slash != NULL ? (int)(slash + 1 - path) : 0;
	char *file;
	char *text = NULL;
	size_t length;
	*out = NULL;
	if (asprintf(&file, "%.*s%s", directory, path, name) < 0)
		return no_memory(path, why);
	enum m2_err err = m2_file_read(AT_FDCWD, file, file, MAX_CONFIG_BYTES, &text, &length, why);
	if (err == M2_OK)
		err = m2_json_parse(text, length, CONFIG_DEPTH, file, out, why);
	else if (err == M2_ENOENT)
		err = M2_OK;
	if (err == M2_OK && *out != NULL && !json_object_is_type(*out, json_type_object)) {
		json_object_put(*out);
		*out = NULL;
		err = m2_fail(M2_EFORMAT, why, "%s: not an object", file);
	}
	free(text);
	free(file);
	return err;
}

/* Programs for files called tokenizer.model (Llama's, Mistral's) begin every text with BOS. */
static bool is_called_tokenizer_model(const char *path)
{
	static const char name[] = "tokenizer.model";
	const char *slash = strrchr(path, '/');
	return strncmp(slash != NULL ? slash + 1 : path, name, sizeof name - 1) == 0;
}

static const char *const beside[] = {"special_tokens_map.json", "tokenizer_config.json"};
enum { N_BESIDE = sizeof beside / sizeof beside[0] };

bool m2_tokenizer_beside(const struct m2_tokenizer *t, size_t i, char *out, size_t size)
{
	const char *slash = t->path != NULL ? strrchr(t->path, '/') : NULL;
	for (size_t which = 0; slash != NULL && which < N_BESIDE; which++) {
		if ((t->beside >> which & 1) == 0 || i-- > 0)
			continue;
		const int n = snprintf(
			out, size, "%.*s%s", (int)(slash + 1 - t->path), t->path, beside[which]);
		return n > 0 && (size_t)n < size;
	}
	return false;
}

static enum m2_err read_configs(struct m2_tokenizer *t, struct m2_why *why)
{
	const bool spm = t->symbols >= M2_SYMBOLS_PIECES;
	bool add_bos = spm && is_called_tokenizer_model(t->path);
	bool add_eos = false;
	enum m2_err err = M2_OK;
	for (size_t i = 0; i < N_BESIDE && err == M2_OK; i++) {
		struct json_object *config;
		err = read_beside(t->path, beside[i], &config, why);
		if (err != M2_OK || config == NULL)
			continue;
		t->beside |= 1U << i;
		take_token(t, config, "bos_token", &t->bos);
		take_token(t, config, "eos_token", &t->eos);
		err = m2_json_get_bool(config, "add_bos_token", &add_bos, NULL, why);
		if (err == M2_OK)
			err = m2_json_get_bool(config, "add_eos_token", &add_eos, NULL, why);
		json_object_put(config);
	}
	return err == M2_OK && spm ? m2_tokenizer_set_ends(t, add_bos, add_eos, why) : err;
}

static enum m2_err open_with_configs(
	const char *path, struct m2_tokenizer **out, struct m2_why *why)
{
	enum m2_err err = open_file(path, out, why);
	const size_t length = strlen(path);
	const bool gguf = length > 5 && strcmp(path + length - 5, ".gguf") == 0;
	if (err == M2_OK && !gguf) /* a GGUF says it all itself */
		err = read_configs(*out, why);
	if (err != M2_OK)
		m2_tokenizer_close(out);
	return err;
}

/* ---- a directory ---- */

struct names {
	char model[MAX_NAME]; /* "": none */
	char other[MAX_NAME]; /* of several models that none is preferred among, a second one */
	char gguf[MAX_NAME];
	char other_gguf[MAX_NAME];
	bool json;
	bool tekken;
};

static bool ends_in(const char *name, const char *suffix)
{
	const size_t n = strlen(name);
	const size_t m = strlen(suffix);
	return n > m && strcmp(name + n - m, suffix) == 0;
}

/* Greater goes first: version 3 is the one that Mamba models use, other names are anyone's. */
static int preference(const char *name)
{
	return strcmp(name, "tokenizer.model.v3") == 0       ? 4
	       : strcmp(name, "tokenizer.model") == 0        ? 3
	       : strncmp(name, "tokenizer.model.v", 17) == 0 ? 2
	       : name[0] != '.' && ends_in(name, ".model")   ? 1
							     : 0;
}

static void note(char first[MAX_NAME], char second[MAX_NAME], const char *name)
{
	(void)snprintf(first[0] == '\0' ? first : second, MAX_NAME, "%s", name);
}

static void note_name(struct names *n, const char *name)
{
	const int rank = preference(name);
	if (strlen(name) >= MAX_NAME)
		return;
	if (rank > 0 && rank == preference(n->model))
		note(n->model, n->other, name);
	if (rank > preference(n->model)) {
		n->model[0] = n->other[0] = '\0';
		note(n->model, n->other, name);
	}
	if (name[0] != '.' && ends_in(name, ".gguf"))
		note(n->gguf, n->other_gguf, name);
	n->json |= strcmp(name, "tokenizer.json") == 0;
	n->tekken |= strcmp(name, "tekken.json") == 0;
}

static enum m2_err list_names(const char *path, struct names *out, struct m2_why *why)
{
	DIR *directory = opendir(path);
	*out = (struct names){.json = false};
	if (directory == NULL)
		return m2_path_explain(path, errno, why);
	for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
		note_name(out, entry->d_name);
	(void)closedir(directory);
	return M2_OK;
}

static enum m2_err open_named(
	const char *directory, const char *name, struct m2_tokenizer **out, struct m2_why *why)
{
	char *path;
	if (asprintf(&path, "%s/%s", directory, name) < 0)
		return no_memory(directory, why);
	const enum m2_err err = open_with_configs(path, out, why);
	free(path);
	return err;
}

static enum m2_err refuse_two(
	const char *path, const char *one, const char *other, struct m2_why *why)
{
	return m2_fail(M2_EINVAL, why, "%s: %s and %s could both be the tokenizer: name the file",
		path, one, other);
}

/* Both kinds are there, or only tokenizer.json. */
static enum m2_err open_json_or_model(
	const char *path, const struct names *n, struct m2_tokenizer **out, struct m2_why *why)
{
	struct m2_tokenizer *json = NULL;
	struct m2_why second;
	if (n->model[0] == '\0' || (n->other[0] != '\0' && n->json))
		return open_named(path, "tokenizer.json", out, why);
	if (n->other[0] != '\0')
		return refuse_two(path, n->model, n->other, why);
	const enum m2_err err = open_named(path, n->model, out, why);
	if (!n->json || open_named(path, "tokenizer.json", &json, &second) != M2_OK)
		return err;
	if (err == M2_OK && (*out)->size >= json->size) {
		m2_tokenizer_close(&json);
		return M2_OK;
	}
	if (err == M2_OK)
		m2_tokenizer_close(out);
	*out = json;
	return M2_OK;
}

static enum m2_err open_directory(const char *path, struct m2_tokenizer **out, struct m2_why *why)
{
	struct names n;
	const enum m2_err err = list_names(path, &n, why);
	if (err != M2_OK)
		return err;
	if (n.json || n.model[0] != '\0')
		return open_json_or_model(path, &n, out, why);
	if (n.other_gguf[0] != '\0')
		return refuse_two(path, n.gguf, n.other_gguf, why);
	if (n.gguf[0] != '\0')
		return open_named(path, n.gguf, out, why);
	if (n.tekken)
		return m2_fail_field(M2_EUNSUPPORTED, why, "tokenizer",
			"%s/tekken.json is the only tokenizer, and tekken is not supported", path);
	return m2_fail(M2_ENOENT, why,
		"%s/tokenizer.json is not there, nor is another tokenizer (tokenizer.model, "
		"*.gguf)",
		path);
}

enum m2_err m2_tokenizer_open(const char *path, struct m2_tokenizer **out, struct m2_why *why)
{
	struct stat st;
	*out = NULL;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? open_directory(path, out, why)
							   : open_with_configs(path, out, why);
}
