/* fuzz_variant.c - YAML from outside: variant files and the daemon's configuration.
 *
 * Any bytes are either refused with a sentence or taken; what is taken prints, and what is printed
 * reads back to an equal record.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/daemon_config.h"
#include "registry/variant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

/* Error and sentence go together; a sentence is one line. */
static void check_why(enum m2_err err, const struct m2_why *why)
{
	require((err == M2_OK) == (why->text[0] == '\0'));
	require(strpbrk(why->text, "\r\n\x1b") == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct m2_variant v, back;
	static struct m2_daemon_config c;
	struct m2_why why = {"", ""};
	/* a copy of exactly the size: reading past it is found */
	char *text = malloc(size + (size == 0));
	require(text != NULL);
	if (size > 0)
		memcpy(text, data, size);

	enum m2_err err = m2_daemon_config_parse(text, size, "fuzz", &c, &why);
	check_why(err, &why);
	why = (struct m2_why){"", ""};
	err = m2_variant_parse(text, size, "fuzz", "/base", &v, &why);
	check_why(err, &why);
	free(text);
	if (err != M2_OK)
		return 0;
	require(m2_variant_name_valid(v.name) && v.checkpoint[0] == '/');
	for (int all = 0; all < 2; all++) {
		char *printed = m2_variant_print(&v, all == 1);
		require(printed != NULL);
		require(m2_variant_parse(printed, strlen(printed), "printed", NULL, &back, &why) ==
			M2_OK);
		require(memcmp(&v, &back, sizeof v) == 0);
		free(printed);
	}
	return 0;
}
