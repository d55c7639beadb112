/* shards.c - which files a checkpoint's tensors are in.
 *
 * The index comes from the same hands as the shards and is as little to be trusted: names must be
 * plain file names, and map and files must agree in both directions, so that no tensor can be loaded
 * from a file that the map does not give it.
 */
#include "model/shards.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/json.h"
#include "model/file.h"

enum { MAX_INDEX_BYTES = 64 << 20, MAX_INDEX_DEPTH = 4, MAX_SHARDS = 1024, MAX_FILE_NAME = 255 };

static const char index_name[] = "model.safetensors.index.json";
static const char single_name[] = "model.safetensors";

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

static enum m2_err collect_names(
	struct json_object *map, char ***names, size_t *count, struct m2_why *why)
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
static enum m2_err find_map(struct json_object *index, struct json_object **map, struct m2_why *why)
{
	const enum m2_err err = m2_json_get_object(index, "weight_map", map, NULL, why);
	if (err != M2_OK)
		return err;
	if (*map == NULL || json_object_object_length(*map) == 0)
		return m2_fail_field(
			M2_EFORMAT, why, "weight_map", "%s has no weight_map", index_name);
	return M2_OK;
}

static enum m2_err names_of_map(
	struct json_object *map, char ***names, size_t *count, struct m2_why *why)
{
	*count = 0;
	*names = calloc(MAX_SHARDS, sizeof **names);
	if (*names == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", index_name);
	const enum m2_err err = collect_names(map, names, count, why);
	if (err != M2_OK)
		free_names(names, count);
	return err;
}

enum m2_err m2_shards_parse_index(
	const char *text, size_t length, char ***names, size_t *count, struct m2_why *why)
{
	struct json_object *index;
	struct json_object *map;
	enum m2_err err = m2_json_parse(text, length, MAX_INDEX_DEPTH, index_name, &index, why);
	if (err != M2_OK)
		return err;
	err = find_map(index, &map, why);
	if (err == M2_OK)
		err = names_of_map(map, names, count, why);
	json_object_put(index);
	return err;
}

/* Open one file; an error of the path is said again with the whole path. */
static enum m2_err open_file(int dirfd, const char *directory, const char *name,
	struct m2_tensor_file **out, struct m2_why *why)
{
	const enum m2_err err = m2_safetensors_open(dirfd, name, out, why);
	if (err != M2_ENOENT && err != M2_EACCES)
		return err;
	char *path;
	if (asprintf(&path, "%s/%s", directory, name) < 0)
		return err;
	const enum m2_err said = m2_path_explain(path, err == M2_ENOENT ? ENOENT : EACCES, why);
	free(path);
	return said;
}

/* Every tensor of file number k must be mapped to it. */
static enum m2_err check_file(const struct m2_tensor_file *file, const char *name,
	struct json_object *map, struct m2_why *why)
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

/* Files and map agree: same tensors, each where it is said to be. */
static enum m2_err check_map(
	const struct m2_shards *s, char *const *names, struct json_object *map, struct m2_why *why)
{
	for (size_t k = 0; k < s->n_files; k++) {
		const enum m2_err err = check_file(s->files[k], names[k], map, why);
		if (err != M2_OK)
			return err;
	}
	json_object_object_foreach(map, tensor, place)
	{
		const char *name = json_object_get_string(place);
		const size_t k = position(names, s->n_files, name);
		if (m2_tensor_file_find(s->files[k], tensor) == NULL)
			return m2_fail(M2_EFORMAT, why,
				"%s lists %.200s in %s, which does not hold it", index_name, tensor,
				name);
	}
	return M2_OK;
}

static enum m2_err open_listed(int dirfd, const char *directory, struct json_object *map,
	struct m2_shards *out, struct m2_why *why)
{
	char **names;
	size_t count;
	enum m2_err err = names_of_map(map, &names, &count, why);
	if (err != M2_OK)
		return err;
	out->files = calloc(count, sizeof *out->files);
	if (out->files == NULL)
		err = m2_fail(M2_ENOMEM, why, "%s: out of memory", index_name);
	for (size_t k = 0; k < count && err == M2_OK; k++) {
		err = open_file(dirfd, directory, names[k], &out->files[k], why);
		out->n_files += err == M2_OK;
	}
	if (err == M2_OK)
		err = check_map(out, names, map, why);
	free_names(&names, &count);
	return err;
}

static enum m2_err open_sharded(
	int dirfd, const char *directory, struct m2_shards *out, struct m2_why *why)
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
	err = find_map(index, &map, why);
	if (err == M2_OK)
		err = open_listed(dirfd, directory, map, out, why);
	json_object_put(index);
	return err;
}

static bool is_there(int dirfd, const char *name)
{
	return faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static enum m2_err open_single(
	int dirfd, const char *directory, struct m2_shards *out, struct m2_why *why)
{
	out->files = calloc(1, sizeof *out->files);
	if (out->files == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", single_name);
	const enum m2_err err = open_file(dirfd, directory, single_name, &out->files[0], why);
	out->n_files = err == M2_OK;
	return err;
}

enum m2_err m2_shards_open(
	int dirfd, const char *directory, struct m2_shards *out, struct m2_why *why)
{
	static const char *const others[] = {
		"consolidated.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"};
	enum m2_err err;
	*out = (struct m2_shards){.files = NULL};
	if (is_there(dirfd, index_name))
		err = open_sharded(dirfd, directory, out, why);
	else if (is_there(dirfd, single_name))
		err = open_single(dirfd, directory, out, why);
	else {
		for (size_t i = 0; i < sizeof others / sizeof *others; i++)
			if (is_there(dirfd, others[i]))
				return m2_fail(M2_EUNSUPPORTED, why,
					"%s holds %s, a container that is not supported; "
					"model.safetensors is",
					directory, others[i]);
		return m2_fail(M2_ENOENT, why, "%s holds neither %s nor %s", directory, single_name,
			index_name);
	}
	if (err != M2_OK)
		m2_shards_finish(out);
	return err;
}

void m2_shards_finish(struct m2_shards *shards)
{
	for (size_t k = 0; k < shards->n_files; k++)
		m2_tensor_file_close(&shards->files[k]);
	free(shards->files);
	*shards = (struct m2_shards){.files = NULL};
}
