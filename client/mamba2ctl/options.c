/* options.c - one parser for all commands, driven by their tables: --name VALUE, --name=VALUE, -n VALUE.
 *
 * Options may stand before or after the arguments; "--" ends them.  A value may begin with a dash
 * (--presence-penalty -1).
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/mamba2ctl/ctl.h"

static const struct ctl_option *find(
	const struct ctl_option *table, const char *name, size_t length, char letter)
{
	for (; table != NULL && table->name != NULL; table++)
		if (letter != 0 ? table->letter == letter
				: strlen(table->name) == length &&
					  memcmp(table->name, name, length) == 0)
			return table;
	return NULL;
}

bool ctl_parse_ids(const char *text, struct ctl_ids *out)
{
	size_t room = 1;
	for (const char *c = text; *c != '\0'; c++)
		room += *c == ',';
	free(out->id);
	out->count = 0;
	out->id = calloc(room, sizeof *out->id);
	if (out->id == NULL)
		return false;
	for (const char *at = text;; at++) {
		char *end;
		errno = 0;
		const long value = strtol(at, &end, 10); /* skips spaces before the number */
		if (end == at || errno != 0 || value < 0 || value > INT32_MAX)
			return false;
		out->id[out->count++] = (int32_t)value;
		at = end + strspn(end, " \t\r\n");
		if (*at == '\0')
			return true;
		if (*at != ',')
			return false;
	}
}

static bool add_text(struct ctl_texts *texts, const char *value)
{
	const char **more = realloc(texts->text, (texts->count + 1) * sizeof *more);
	if (more == NULL)
		return false;
	texts->text = more;
	texts->text[texts->count++] = value;
	return true;
}

static bool store(const struct ctl_option *o, const char *value)
{
	char *end = NULL;
	errno = 0;
	switch (o->type) {
	case CTL_FLAG:
		*(int *)o->to = 1;
		return true;
	case CTL_INT:
		*(int64_t *)o->to = strtoll(value, &end, 10);
		return end != value && *end == '\0' && errno == 0;
	case CTL_FLOAT:
		*(float *)o->to = strtof(value, &end);
		return end != value && *end == '\0' && isfinite(*(float *)o->to);
	case CTL_TEXT:
		*(const char **)o->to = value;
		return true;
	case CTL_TEXTS:
		return add_text(o->to, value);
	case CTL_IDS:
		return ctl_parse_ids(value, o->to);
	}
	return false;
}

/* Take argv[*at] (and its value) as an option. */
static bool take(const struct ctl_option *own, int argc, char **argv, int *at)
{
	const char *word = argv[*at];
	const bool is_long = word[1] == '-';
	const char *name = word + (is_long ? 2 : 1);
	const char *equals = is_long ? strchr(name, '=') : NULL;
	const size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);
	const char letter = is_long ? '\0' : name[0];
	const struct ctl_option *o = find(own, name, length, letter);
	if (o == NULL)
		o = find(ctl_global_options, name, length, letter);
	const char *value = equals != NULL ? equals + 1 : NULL;
	if (!is_long && name[1] != '\0')
		value = name + 1; /* -n24 */
	if (o == NULL || (o->value == NULL && value != NULL)) {
		(void)ctl_say(
			CTL_USAGE, o == NULL ? "there is no option %s" : "%s takes no value", word);
		return false;
	}
	if (o->value != NULL && value == NULL) {
		if (++*at == argc) {
			(void)ctl_say(CTL_USAGE, "%s wants a value: %s", word, o->value);
			return false;
		}
		value = argv[*at];
	}
	if (!store(o, value)) {
		(void)ctl_say(
			CTL_USAGE, "--%s: \"%s\" is not of the form %s", o->name, value, o->value);
		return false;
	}
	return true;
}

bool ctl_parse(const struct ctl_option *own, int *argc, char **argv)
{
	int kept = 0;
	bool options = true;
	for (int i = 0; i < *argc; i++) {
		if (options && strcmp(argv[i], "--") == 0)
			options = false;
		else if (!options || argv[i][0] != '-' || argv[i][1] == '\0')
			argv[kept++] = argv[i];
		else if (!take(own, *argc, argv, &i))
			return false;
	}
	*argc = kept;
	return true;
}

void ctl_free_options(const struct ctl_option *own)
{
	for (; own != NULL && own->name != NULL; own++) {
		if (own->type == CTL_IDS)
			free(((struct ctl_ids *)own->to)->id);
		if (own->type == CTL_TEXTS)
			free(((struct ctl_texts *)own->to)->text);
	}
}
