/* shards.c - which files a checkpoint's tensors are in.
 *
 * An index comes from the same hands as the shards and is as little to be trusted: names must be plain
 * file names, and map and files must agree in both directions, so that no tensor can be loaded from a
 * file that the map does not give it.  The rules are the same for safetensors and for PyTorch's files.
 */
#include "model/shards.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/json.h"
#include "model/file.h"
#include "model/pytorch.h"
#include "model/safetensors.h"

enum { MAX_INDEX_BYTES = 64 << 20, MAX_INDEX_DEPTH = 4, MAX_SHARDS = 1024, MAX_FILE_NAME = 255 };

/* The names that a container has, the preferred first; GGUF files have names of their own. */
static const struct container_row {
	const char *name;
	enum m2_container container;
	bool is_index;
} containers[] = {
	{"model.safetensors.index.json", M2_CONTAINER_SAFETENSORS, true},
	{"model.safetensors", M2_CONTAINER_SAFETENSORS, false},
	{"consolidated.safetensors", M2_CONTAINER_SAFETENSORS, false},
	{"pytorch_model.bin.index.json", M2_CONTAINER_PYTORCH, true},
	{"pytorch_model.bin", M2_CONTAINER_PYTORCH, false},
};

/* ---- the index ---- */

/* A plain name inside the directory. */
static bool is_plain_name(const char *name, size_t length)
{
	return length > 0 && length <= MAX_FILE_NAME && strlen(name) == length &&
	       strchr(name, '/') == NULL && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Position of name among the n known ones, n when it is new. */
static size_t position(char *const *names, size_t n, const char *name)
{
	size_t i = 0;
	while (i < n && strcmp(names[i], name) != 0)
		i++;
	return i;
}

static enum m2_err collect_names(const char *index_name, struct json_object *map, char ***names,
	size_t *count, struct m2_why *why)
{
	json_object_object_foreach(map, tensor, file)
	{
		const char *name = json_object_is_type(file, json_type_string)
					   ? json_object_get_string(file)
					   : "";
		if (!is_plain_name(name, strlen(name)) ||
			strlen(name) != (size_t)json_object_get_string_len(file))
			return m2_fail_field(M2_EFORMAT, why, "weight_map",
				"%s: %.128s is said to be in \"%.64s\", which is no plain file "
				"name",
				index_name, tensor, name);
		if (position(*names, *count, name) < *count)
			continue;
		if (*count == MAX_SHARDS)
			return m2_fail_field(M2_ELIMIT, why, "weight_map",
				"%s names more than %d files", index_name, MAX_SHARDS);
		if (((*names)[*count] = strdup(name)) == NULL)
			return m2_fail(M2_ENOMEM, why, "%s: out of memory", index_name);
		(*count)++;
	}
	return M2_OK;
}

static void free_names(char ***names, size_t *count)
{
	for (size_t i = 0; i < *count; i++)
		free((*names)[i]);
	free(*names);
	*names = NULL;
	*count = 0;
}

/* The weight_map of a parsed index, borrowed. */
static enum m2_err find_map(const char *index_name, struct json_object *index,
	struct json_object **map, struct m2_why *why)
{
	const enum m2_err err = m2_fail_within(
		m2_json_get_object(index, "weight_map", map, NULL, why), why, index_name);
	if (err != M2_OK)
		return err;
	if (*map == NULL || json_object_object_length(*map) == 0)
		return m2_fail_field(
			M2_EFORMAT, why, "weight_map", "%s has no weight_map", index_name);
	return M2_OK;
}

static enum m2_err names_of_map(const char *index_name, struct json_object *map, char ***names,
	size_t *count, struct m2_why *why)
{
	*count = 0;
	*names = calloc(MAX_SHARDS, sizeof **names);
	if (*names == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", index_name);
	const enum m2_err err = collect_names(index_name, map, names, count, why);
	if (err != M2_OK)
		free_names(names, count);
	return err;
}

enum m2_err m2_shards_parse_index(
	const char *text, size_t length, char ***names, size_t *count, struct m2_why *why)
{
	const char *index_name = containers[0].name;
	struct json_object *index;
	struct json_object *map;
	enum m2_err err = m2_json_parse(text, length, MAX_INDEX_DEPTH, index_name, &index, why);
	if (err != M2_OK)
		return err;
	err = find_map(index_name, index, &map, why);
	if (err == M2_OK)
		err = names_of_map(index_name, map, names, count, why);
	json_object_put(index);
	return err;
}

/* ---- files ---- */

/* Open one file; an error of the path is said again with the whole path. */
static enum m2_err open_file(int dirfd, const char *directory, const char *name,
	enum m2_container container, struct m2_tensor_file **out, struct m2_why *why)
{
	const enum m2_err err = container == M2_CONTAINER_PYTORCH
					? m2_pytorch_open(dirfd, name, out, why)
					: m2_safetensors_open(dirfd, name, out, why);
	if (err != M2_ENOENT && err != M2_EACCES)
		return err;
	char *path;
	if (asprintf(&path, "%s/%s", directory, name) < 0)
		return err;
	const enum m2_err said = m2_path_explain(path, err == M2_ENOENT ? ENOENT : EACCES, why);
	free(path);
	return said;
}

/* Every tensor of file `name` must be mapped to it. */
static enum m2_err check_file(const struct m2_tensor_file *file, const char *name,
	const char *index_name, struct json_object *map, struct m2_why *why)
{
	for (size_t i = 0; i < file->count; i++) {
		const char *tensor = file->tensors[i].name;
		struct json_object *place = NULL;
		if (!json_object_object_get_ex(map, tensor, &place))
			return m2_fail(M2_EFORMAT, why, "%s holds %.200s, which %s does not list",
				name, tensor, index_name);
		if (strcmp(json_object_get_string(place), name) != 0)
			return m2_fail(M2_EFORMAT, why, "%s holds %.200s, which %s lists in %.64s",
				name, tensor, index_name, json_object_get_string(place));
	}
	return M2_OK;
}

/* Files and map agree: same tensors, each where it is said to be.  s->read[0] is the index. */
static enum m2_err check_map(const struct m2_shards *s, struct json_object *map, struct m2_why *why)
{
	char *const *names = s->read + 1;
	for (size_t k = 0; k < s->n_files; k++) {
		const enum m2_err err = check_file(s->files[k], names[k], s->read[0], map, why);
		if (err != M2_OK)
			return err;
	}
	json_object_object_foreach(map, tensor, place)
	{
		const char *name = json_object_get_string(place);
		const size_t k = position(names, s->n_files, name);
		if (m2_tensor_file_find(s->files[k], tensor) == NULL)
			return m2_fail(M2_EFORMAT, why,
				"%s lists %.200s in %s, which does not hold it", s->read[0], tensor,
				name);
	}
	return M2_OK;
}

/* Room for `count` files and an index. */
static enum m2_err make_room(struct m2_shards *s, size_t count, struct m2_why *why)
{
	s->files = calloc(count, sizeof *s->files);
	s->read = calloc(count + 1, sizeof *s->read);
	return s->files != NULL && s->read != NULL
		       ? M2_OK
		       : m2_fail(M2_ENOMEM, why, "out of memory for the list of %zu files", count);
}

static enum m2_err add_name(struct m2_shards *s, const char *name, struct m2_why *why)
{
	s->read[s->n_read] = strdup(name);
	if (s->read[s->n_read] == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", name);
	s->n_read++;
	return M2_OK;
}

static enum m2_err open_files(
	int dirfd, const char *directory, size_t first, struct m2_shards *s, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	for (size_t k = first; k < s->n_read && err == M2_OK; k++) {
		err = open_file(
			dirfd, directory, s->read[k], s->container, &s->files[k - first], why);
		s->n_files += err == M2_OK;
	}
	return err;
}

static enum m2_err open_listed(int dirfd, const char *directory, const char *index_name,
	struct json_object *map, struct m2_shards *s, struct m2_why *why)
{
	char **names;
	size_t count;
	enum m2_err err = names_of_map(index_name, map, &names, &count, why);
	if (err != M2_OK)
		return err;
	err = make_room(s, count, why);
	if (err == M2_OK)
		err = add_name(s, index_name, why);
	for (size_t k = 0; k < count && err == M2_OK; k++)
		err = add_name(s, names[k], why);
	free_names(&names, &count);
	if (err == M2_OK)
		err = open_files(dirfd, directory, 1, s, why);
	return err != M2_OK ? err : check_map(s, map, why);
}

static enum m2_err open_sharded(int dirfd, const char *directory, const char *index_name,
	struct m2_shards *s, struct m2_why *why)
{
	char *text;
	size_t length;
	struct json_object *index;
	struct json_object *map;
	enum m2_err err =
		m2_file_read(dirfd, index_name, index_name, MAX_INDEX_BYTES, &text, &length, why);
	if (err != M2_OK)
		return err;
	err = m2_json_parse(text, length, MAX_INDEX_DEPTH, index_name, &index, why);
	free(text);
	if (err != M2_OK)
		return err;
	err = find_map(index_name, index, &map, why);
	if (err == M2_OK)
		err = open_listed(dirfd, directory, index_name, map, s, why);
	json_object_put(index);
	return err;
}

static enum m2_err open_single(
	int dirfd, const char *directory, const char *name, struct m2_shards *s, struct m2_why *why)
{
	enum m2_err err = make_room(s, 1, why);
	if (err == M2_OK)
		err = add_name(s, name, why);
	if (err == M2_OK && s->container == M2_CONTAINER_GGUF) {
		err = m2_gguf_open(dirfd, name, &s->gguf, &s->files[0], why);
		s->n_files = err == M2_OK;
	} else if (err == M2_OK) {
		err = open_files(dirfd, directory, 0, s, why);
	}
	return err;
}

enum m2_err m2_shards_open(int dirfd, const char *directory, const struct m2_shards_choice *choice,
	struct m2_shards *out, struct m2_why *why)
{
	*out = (struct m2_shards){.container = choice->container};
	const enum m2_err err = choice->is_index
					? open_sharded(dirfd, directory, choice->name, out, why)
					: open_single(dirfd, directory, choice->name, out, why);
	if (err != M2_OK)
		m2_shards_finish(out);
	return err;
}

enum m2_err m2_shards_open_gguf(const char *path, struct m2_shards *out, struct m2_why *why)
{
	*out = (struct m2_shards){.container = M2_CONTAINER_GGUF};
	const enum m2_err err = open_single(AT_FDCWD, "", path, out, why);
	if (err != M2_OK)
		m2_shards_finish(out);
	return err;
}

void m2_shards_finish(struct m2_shards *shards)
{
	for (size_t k = 0; k < shards->n_files; k++)
		m2_tensor_file_close(&shards->files[k]);
	free(shards->files);
	free_names(&shards->read, &shards->n_read);
	m2_gguf_close(&shards->gguf);
	*shards = (struct m2_shards){.files = NULL};
}

/* ---- choosing ---- */

static bool is_gguf_name(const char *name)
{
	static const char end[] = ".gguf";
	const size_t n = strlen(name);
	return n >= sizeof end && strcmp(name + n - (sizeof end - 1), end) == 0;
}

/* The only *.gguf of a directory.  Which of several is meant is not ours to guess. */
static enum m2_err choose_gguf(
	DIR *listing, const char *directory, struct m2_shards_choice *out, struct m2_why *why)
{
	const struct dirent *entry;
	while ((entry = readdir(listing)) != NULL) {
		if (!is_gguf_name(entry->d_name))
			continue;
		if (out->container == M2_CONTAINER_GGUF)
			return m2_fail(M2_EINVAL, why,
				"%.150s holds more than one GGUF file, %.80s and %.80s among them: "
				"name the file, not the directory",
				directory, out->name, entry->d_name);
		out->container = M2_CONTAINER_GGUF;
		(void)snprintf(out->name, sizeof out->name, "%s", entry->d_name);
	}
	return M2_OK;
}

enum m2_err m2_shards_choose(
	int dirfd, const char *directory, struct m2_shards_choice *out, struct m2_why *why)
{
	*out = (struct m2_shards_choice){.container = M2_CONTAINER_NONE};
	for (size_t i = 0; i < sizeof containers / sizeof *containers; i++) {
		const struct container_row *row = &containers[i];
		if (faccessat(dirfd, row->name, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
			continue;
		out->container = row->container;
		out->is_index = row->is_index;
		(void)snprintf(out->name, sizeof out->name, "%s", row->name);
		return M2_OK;
	}
	const int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
	if (listing == NULL) {
		const int error = errno;
		if (fd >= 0)
			close(fd);
		return m2_path_explain(directory, error, why);
	}
	const enum m2_err err = choose_gguf(listing, directory, out, why);
	closedir(listing);
	return err;
}
