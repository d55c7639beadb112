/* json.c - the checks json-c does not make, and typed getters.
 *
 * Duplicate keys: json-c's parser replaces the earlier value without a word, so a document could say
 * one thing to a reader and another to us.  Before json-c sees the text, one pass over it (scan_*)
 * checks nesting and keeps, for every open object, the hashes and places of its keys, compared as
 * they are meant: "\u00e9" and "é" are one key.  A key that spells a plain ASCII character as \u00XX
 * is refused, no writer produces one; so is a NUL in a key, where json-c would end the key, and the
 * apostrophe that json-c takes for a quote.
 * The pass does not judge grammar; json-c does, right after.
 */
#include "common/json.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

/* One key seen in an open object; kept in one growing stack shared by all open objects. */
struct seen_key {
	uint64_t hash;
	uint32_t at;     /* offset of its first byte, after the quote */
	uint32_t length; /* raw bytes */
	bool escaped;    /* the raw bytes are not the key itself */
};

struct open_level {
	bool object;
	bool expect_key; /* the next string at this level is a key */
	size_t first_key;
	/* Open-addressed index over this level's keys, made when they become many. */
	uint32_t *index;
	size_t index_size;
	size_t keys;
};

struct scan {
	const char *text;
	size_t length;
	size_t at;
	int depth;
	int max_depth;
	struct open_level *levels;
	struct seen_key *keys;
	size_t n_keys;
	size_t cap_keys;
	const char *what;
	struct m2_why *why;
};

static uint64_t hash_bytes(const char *p, size_t n)
{
	uint64_t h = 14695981039346656037u; /* FNV-1a; collisions are resolved by comparing bytes */
	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)p[i]) * 1099511628211u;
	return h;
}

/* The bytes that a written key means, one by one. */
struct key_reader {
	const char *at;
	const char *end;
	unsigned char pending[4]; /* of the character that an escape stands for */
	int n_pending;
	int next_pending;
};

/* The four hexadecimal digits behind a \u; -1 if they are not. */
static int hex4(const char *p, const char *end)
{
	static const char digits[] = "0123456789abcdef";
	int value = 0;
	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		const char c = p[i] >= 'A' && p[i] <= 'F' ? (char)(p[i] + ('a' - 'A')) : p[i];
		const char *found = c == '\0' ? NULL : strchr(digits, c);
		if (found == NULL)
			return -1;
		value = value * 16 + (int)(found - digits);
	}
	return value;
}

/* r->at is behind a \u: the character that it, and for a surrogate its partner, stand for. */
static uint32_t read_unicode_escape(struct key_reader *r)
{
	const int high = hex4(r->at, r->end);
	if (high < 0)
		return 0xfffd; /* json-c refuses the document */
	r->at += 4;
	if (high < 0xd800 || high > 0xdfff)
		return (uint32_t)high;
	const bool paired =
		high <= 0xdbff && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u';
	const int low = paired ? hex4(r->at + 2, r->end) : -1;
	if (low < 0xdc00 || low > 0xdfff)
		return 0xfffd; /* as json-c reads half a pair */
	r->at += 6;
	return 0x10000 + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00);
}

/* The next byte, -1 at the end. */
static int next_key_byte(struct key_reader *r)
{
	static const char from[] = "bfnrt";
	static const char to[] = "\b\f\n\r\t";
	if (r->next_pending < r->n_pending)
		return r->pending[r->next_pending++];
	if (r->at == r->end)
		return -1;
	if (*r->at != '\\' || r->at + 1 == r->end)
		return (unsigned char)*r->at++;
	const char c = r->at[1];
	r->at += 2;
	if (c == 'u') {
		r->n_pending = m2_utf8_encode(read_unicode_escape(r), r->pending);
		r->next_pending = 1;
		return r->pending[0];
	}
	const char *found = c == '\0' ? NULL : strchr(from, c);
	return (unsigned char)(found != NULL ? to[found - from] : c);
}

/* hash_bytes of what an escaped key means. */
static uint64_t hash_meaning(const char *p, size_t n, bool *holds_nul)
{
	struct key_reader r = {.at = p, .end = p + n};
	uint64_t h = 14695981039346656037u;
	for (int c = next_key_byte(&r); c >= 0; c = next_key_byte(&r)) {
		h = (h ^ (uint64_t)c) * 1099511628211u;
		*holds_nul |= c == 0;
	}
	return h;
}

static bool same_key(const struct scan *s, const struct seen_key *a, const struct seen_key *b)
{
	if (a->hash != b->hash)
		return false;
	if (!a->escaped && !b->escaped)
		return a->length == b->length &&
		       memcmp(s->text + a->at, s->text + b->at, a->length) == 0;
	struct key_reader x = {.at = s->text + a->at, .end = s->text + a->at + a->length};
	struct key_reader y = {.at = s->text + b->at, .end = s->text + b->at + b->length};
	int c;
	do {
		c = next_key_byte(&x);
		if (c != next_key_byte(&y))
			return false;
	} while (c >= 0);
	return true;
}

/* Rebuild the level's index at twice its size; false without memory. */
static bool grow_index(struct scan *s, struct open_level *level)
{
	const size_t size = level->index_size == 0 ? 64 : level->index_size * 2;
	uint32_t *index = calloc(size, sizeof *index);
	if (index == NULL)
		return false;
	for (size_t k = level->first_key; k < level->first_key + level->keys; k++) {
		size_t slot = s->keys[k].hash & (size - 1);
		while (index[slot] != 0)
			slot = (slot + 1) & (size - 1);
		index[slot] = (uint32_t)(k + 1);
	}
	free(level->index);
	level->index = index;
	level->index_size = size;
	return true;
}

static enum m2_err remember_key(struct scan *s, struct seen_key key)
{
	struct open_level *level = &s->levels[s->depth - 1];
	if (s->n_keys == s->cap_keys) {
		const size_t cap = s->cap_keys == 0 ? 256 : s->cap_keys * 2;
		struct seen_key *keys = realloc(s->keys, cap * sizeof *keys);
		if (keys == NULL)
			return m2_fail(M2_ENOMEM, s->why, "%s: out of memory", s->what);
		s->keys = keys;
		s->cap_keys = cap;
	}
	if ((level->keys + 1) * 2 > level->index_size && !grow_index(s, level))
		return m2_fail(M2_ENOMEM, s->why, "%s: out of memory", s->what);

	size_t slot = key.hash & (level->index_size - 1);
	while (level->index[slot] != 0) {
		if (same_key(s, &s->keys[level->index[slot] - 1], &key))
			return m2_fail(M2_EFORMAT, s->why, "%s: the key \"%.*s\" occurs twice",
				s->what, key.length > 64 ? 64 : (int)key.length, s->text + key.at);
		slot = (slot + 1) & (level->index_size - 1);
	}
	s->keys[s->n_keys++] = key;
	level->keys++;
	level->index[slot] = (uint32_t)s->n_keys;
	return M2_OK;
}

/* Escaped keys are legal JSON (vocabularies hold "\"" and "\\"), so they are compared by what they
 * mean; a \u of a plain ASCII character exists only to hide one. */
static enum m2_err scan_key(struct scan *s, size_t start, size_t length, bool escaped)
{
	struct seen_key key = {
		.at = (uint32_t)start, .length = (uint32_t)length, .escaped = escaped};
	bool holds_nul = false;
	for (size_t i = start; escaped && i + 5 < start + length; i++) {
		if (s->text[i] != '\\')
			continue;
		if (s->text[i + 1] == 'u' && s->text[i + 2] == '0' && s->text[i + 3] == '0' &&
			s->text[i + 4] >= '2' && s->text[i + 4] < '7')
			return m2_fail(M2_EFORMAT, s->why,
				"%s: a key escapes a plain character at byte %zu", s->what, i);
		i++;
	}
	key.hash = escaped ? hash_meaning(s->text + start, length, &holds_nul)
			   : hash_bytes(s->text + start, length);
	if (holds_nul)
		return m2_fail(M2_EFORMAT, s->why, "%s: NUL in a key at byte %zu", s->what, start);
	return remember_key(s, key);
}

/* A string: s->at is behind the opening quote and ends behind the closing one. */
static enum m2_err scan_string(struct scan *s, bool is_key)
{
	const size_t start = s->at;
	bool escaped = false;
	while (s->at < s->length && s->text[s->at] != '"') {
		const unsigned char c = (unsigned char)s->text[s->at];
		if (c < 0x20)
			return m2_fail(M2_EFORMAT, s->why,
				"%s: control character inside a string at byte %zu", s->what,
				s->at);
		if (c == '\\') {
			escaped = true;
			s->at++;
		}
		s->at++;
	}
	if (s->at >= s->length)
		return m2_fail(M2_EFORMAT, s->why, "%s: a string does not end", s->what);
	const size_t length = s->at++ - start;
	if (!is_key)
		return M2_OK;
	return scan_key(s, start, length, escaped);
}

static enum m2_err open_level(struct scan *s, bool object)
{
	if (s->depth == s->max_depth)
		return m2_fail(M2_EFORMAT, s->why, "%s: nested deeper than %d levels", s->what,
			s->max_depth);
	s->levels[s->depth++] =
		(struct open_level){.object = object, .expect_key = object, .first_key = s->n_keys};
	return M2_OK;
}

static enum m2_err close_level(struct scan *s)
{
	if (s->depth == 0)
		return m2_fail(
			M2_EFORMAT, s->why, "%s: unbalanced bracket at byte %zu", s->what, s->at);
	struct open_level *level = &s->levels[--s->depth];
	s->n_keys = level->first_key;
	free(level->index);
	level->index = NULL;
	return M2_OK;
}

static enum m2_err scan_document(struct scan *s)
{
	enum m2_err err = M2_OK;
	while (err == M2_OK && s->at < s->length) {
		struct open_level *level = s->depth > 0 ? &s->levels[s->depth - 1] : NULL;
		switch (s->text[s->at++]) {
		case '"':
			err = scan_string(s, level != NULL && level->expect_key);
			break;
		case '{':
			err = open_level(s, true);
			break;
		case '[':
			err = open_level(s, false);
			break;
		case '}':
		case ']':
			err = close_level(s);
			break;
		case ':':
			if (level != NULL)
				level->expect_key = false;
			break;
		case ',':
			if (level != NULL)
				level->expect_key = level->object;
			break;
		case '\0':
		case '\'': /* json-c takes it for a quote, and would see keys that we do not */
		case '/':  /* json-c reads comments; JSON has none */
			err = m2_fail(M2_EFORMAT, s->why, "%s: unexpected byte at %zu", s->what,
				s->at - 1);
			break;
		default:
			break;
		}
	}
	return err;
}

static enum m2_err check_text(
	const char *text, size_t length, int max_depth, const char *what, struct m2_why *why)
{
	if (length > INT_MAX - 1)
		return m2_fail(M2_EFORMAT, why, "%s: larger than 2 GiB", what);
	if (!m2_utf8_valid(text, length))
		return m2_fail(M2_EFORMAT, why, "%s: not valid UTF-8", what);
	struct scan s = {
		.text = text, .length = length, .max_depth = max_depth, .what = what, .why = why};
	s.levels = calloc((size_t)max_depth, sizeof *s.levels);
	if (s.levels == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	const enum m2_err err = scan_document(&s);
	while (s.depth > 0)
		(void)close_level(&s);
	free(s.levels);
	free(s.keys);
	return err;
}

enum { HEADROOM = 65536, PER_BYTE = 24 };

/* json-c that finds no memory in the middle leaves members out, or worse: ask for all it could need, and more
 * than what others take meanwhile, before it begins. */
static bool has_headroom(size_t length)
{
	void *volatile room = malloc(HEADROOM + PER_BYTE * length);
	const bool found = room != NULL;
	free(room);
	return found;
}

enum m2_err m2_json_parse(const char *text, size_t length, int max_depth, const char *what,
	struct json_object **out, struct m2_why *why)
{
	enum m2_err err = check_text(text, length, max_depth, what, why);
	if (err != M2_OK)
		return err;
	if (!has_headroom(length))
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	/* json-c counts the scalar inside as a level of its own */
	struct json_tokener *tokener = json_tokener_new_ex(max_depth + 2);
	if (tokener == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	/* not STRICT: that mode refuses Infinity, which published checkpoints contain */
	struct json_object *object = json_tokener_parse_ex(tokener, text, (int)length);
	enum json_tokener_error state = json_tokener_get_error(tokener);
	size_t end = json_tokener_get_parse_end(tokener);
	if (state == json_tokener_continue) { /* a bare number ends only at an end of input */
		object = json_tokener_parse_ex(tokener, "", 1);
		state = json_tokener_get_error(tokener);
		end = length; /* the place in "" says nothing about the text, which was taken in full */
	}
	json_tokener_free(tokener);
	if (state != json_tokener_success) {
		json_object_put(object);
		return m2_fail(M2_EFORMAT, why, "%s: not JSON at byte %zu: %s", what, end,
			json_tokener_error_desc(state));
	}
	for (; end < length; end++)
		if (strchr(" \t\r\n", text[end]) == NULL) {
			json_object_put(object);
			return m2_fail(M2_EFORMAT, why,
				"%s: more text after the value, at byte %zu", what, end);
		}
	*out = object;
	return M2_OK;
}

bool m2_json_as_double(struct json_object *value, double *out)
{
	struct json_object *spelt;
	const char *text = NULL;
	switch (json_object_get_type(value)) {
	case json_type_int:
	case json_type_double:
		*out = json_object_get_double(value);
		return true;
	case json_type_object: /* transformers 5 writes {"__float__": "Infinity"} */
		if (json_object_object_length(value) == 1 &&
			json_object_object_get_ex(value, "__float__", &spelt) &&
			json_object_is_type(spelt, json_type_string))
			text = json_object_get_string(spelt);
		break;
	case json_type_string: /* and some writers "inf" */
		text = json_object_get_string(value);
		break;
	default:
		break;
	}
	if (text == NULL)
		return false;
	if (strcmp(text, "Infinity") == 0 || strcmp(text, "inf") == 0)
		*out = INFINITY;
	else if (strcmp(text, "-Infinity") == 0 || strcmp(text, "-inf") == 0)
		*out = -INFINITY;
	else
		return false;
	return true;
}

bool m2_json_as_int(struct json_object *value, int64_t *out)
{
	if (json_object_is_type(value, json_type_int)) {
		/* json-c saturates what does not fit; the ends are therefore not trusted */
		const int64_t n = json_object_get_int64(value);
		*out = n;
		return n != INT64_MAX && n != INT64_MIN;
	}
	if (json_object_is_type(value, json_type_double)) {
		const double d = json_object_get_double(value);
		if (!(fabs(d) <= 9007199254740992.0) || d != floor(d))
			return false;
		*out = (int64_t)d;
		return true;
	}
	return false;
}

/* The value under key, NULL when absent or null. */
static struct json_object *lookup(struct json_object *object, const char *key, bool *found)
{
	struct json_object *value = NULL;
	const bool has = json_object_is_type(object, json_type_object) &&
			 json_object_object_get_ex(object, key, &value) && value != NULL;
	if (found != NULL)
		*found = has;
	return has ? value : NULL;
}

enum m2_err m2_json_get_int(struct json_object *object, const char *key, int64_t min, int64_t max,
	int64_t *out, bool *found, struct m2_why *why)
{
	struct json_object *value = lookup(object, key, found);
	int64_t n;
	if (value == NULL)
		return M2_OK;
	if (!m2_json_as_int(value, &n))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not an integer", key);
	if (n < min || n > max)
		return m2_fail_field(M2_EINVAL, why, key, "%s is %lld, outside %lld..%lld", key,
			(long long)n, (long long)min, (long long)max);
	*out = n;
	return M2_OK;
}

enum m2_err m2_json_get_double(struct json_object *object, const char *key, double min, double max,
	double *out, bool *found, struct m2_why *why)
{
	struct json_object *value = lookup(object, key, found);
	double d;
	if (value == NULL)
		return M2_OK;
	if (!m2_json_as_double(value, &d))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not a number", key);
	if (!(d >= min && d <= max)) /* NaN fails too */
		return m2_fail_field(
			M2_EINVAL, why, key, "%s is %g, outside %g..%g", key, d, min, max);
	*out = d;
	return M2_OK;
}

enum m2_err m2_json_get_bool(
	struct json_object *object, const char *key, bool *out, bool *found, struct m2_why *why)
{
	struct json_object *value = lookup(object, key, found);
	if (value == NULL)
		return M2_OK;
	if (!json_object_is_type(value, json_type_boolean))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not true or false", key);
	*out = json_object_get_boolean(value) != 0;
	return M2_OK;
}

enum m2_err m2_json_get_string(struct json_object *object, const char *key, size_t max_bytes,
	const char **out, size_t *length, bool *found, struct m2_why *why)
{
	struct json_object *value = lookup(object, key, found);
	if (value == NULL)
		return M2_OK;
	if (!json_object_is_type(value, json_type_string))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not a string", key);
	const char *text = json_object_get_string(value);
	const size_t n = (size_t)json_object_get_string_len(value);
	if (n > max_bytes)
		return m2_fail_field(
			M2_EINVAL, why, key, "%s has %zu bytes, more than %zu", key, n, max_bytes);
	if (memchr(text, '\0', n) != NULL)
		return m2_fail_field(M2_EINVAL, why, key, "%s holds a NUL character", key);
	*out = text;
	if (length != NULL)
		*length = n;
	return M2_OK;
}

enum m2_err m2_json_get_array(struct json_object *object, const char *key, size_t max_items,
	struct json_object **out, bool *found, struct m2_why *why)
{
	struct json_object *value = lookup(object, key, found);
	*out = NULL;
	if (value == NULL)
		return M2_OK;
	if (!json_object_is_type(value, json_type_array))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not an array", key);
	if (json_object_array_length(value) > max_items)
		return m2_fail_field(M2_EINVAL, why, key, "%s has %zu entries, more than %zu", key,
			json_object_array_length(value), max_items);
	*out = value;
	return M2_OK;
}

enum m2_err m2_json_get_object(struct json_object *object, const char *key,
	struct json_object **out, bool *found, struct m2_why *why)
{
	struct json_object *value = lookup(object, key, found);
	*out = NULL;
	if (value == NULL)
		return M2_OK;
	if (!json_object_is_type(value, json_type_object))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not an object", key);
	*out = value;
	return M2_OK;
}

enum m2_err m2_json_refuse_unknown(
	struct json_object *object, const char *const *known, struct m2_why *why)
{
	json_object_object_foreach(object, key, value)
	{
		(void)value;
		bool found = false;
		for (const char *const *k = known; *k != NULL && !found; k++)
			found = strcmp(*k, key) == 0;
		if (!found)
			return m2_fail_field(M2_EINVAL, why, key, "unknown key \"%.64s\"", key);
	}
	return M2_OK;
}
