/* test_zoo.c - configs/zoo: every file is a variant, its comment head is true, and they live together.
 *
 * The head's "shape:" line is the published config's; parameters, bytes and slots are recomputed from
 * it and must stand there exactly; the README's table is made of the heads (M2_REGENERATE=1 writes it).
 * The bytes of a sequence are those that the reference backend plans.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "registry/store.h"
#include "tests/unit/published_configs.h"
#include "tests/unit/test_registry_dir.h"

#define ZOO "configs/zoo"
#define HUB "https://huggingface.co/"
enum { MAX_FILES = 64, MAX_SLOTS = 128 };
static const uint64_t STATE_BUDGET = UINT64_C(4) << 30;

/* One file and the lines of its head. */
struct animal {
	char file[300];
	char *text;
	struct m2_variant v;
	char origin[128], licence[64], shape[128], parameters[64], weights[128], sequence[64],
		slots[64], download[512];
	const struct published *published;
	struct m2_model_config config;
};

static struct animal *zoo;
static int n_zoo;

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_yaml(const struct dirent *entry)
{
	const size_t n = strlen(entry->d_name);
	return n > 5 && strcmp(entry->d_name + n - 5, ".yaml") == 0;
}

/* The rest of the line "# key:   rest". */
static void head_line(const struct animal *a, const char *key, char *out, size_t size)
{
	char start[32];
	(void)snprintf(start, sizeof start, "\n# %s:", key);
	const char *at = strstr(a->text, start);
	if (at == NULL)
		fail_msg("%s has no line \"# %s:\"", a->file, key);
	at += strlen(start);
	at += strspn(at, " ");
	const size_t n = strcspn(at, "\n");
	if (n == 0 || n >= size)
		fail_msg("%s: the line \"# %s:\" is empty or too long", a->file, key);
	memcpy(out, at, n);
	out[n] = '\0';
}

static void read_animal(struct animal *a, const char *name)
{
	struct m2_why why = {"", ""};
	size_t length;
	(void)snprintf(a->file, sizeof a->file, ZOO "/%s", name);
	if (m2_variant_read(a->file, &a->v, &a->text, &length, &why) != M2_OK)
		fail_msg("%s", why.text);
	head_line(a, "origin", a->origin, sizeof a->origin);
	head_line(a, "licence", a->licence, sizeof a->licence);
	head_line(a, "shape", a->shape, sizeof a->shape);
	head_line(a, "parameters", a->parameters, sizeof a->parameters);
	head_line(a, "weights", a->weights, sizeof a->weights);
	head_line(a, "sequence", a->sequence, sizeof a->sequence);
	head_line(a, "slots", a->slots, sizeof a->slots);
	head_line(a, "download", a->download, sizeof a->download);
	const char *origin = a->origin;
	if (strncmp(origin, HUB, strlen(HUB)) == 0)
		origin += strlen(HUB);
	for (size_t i = 0; i < N_PUBLISHED; i++)
		if (strcmp(published[i].repository, origin) == 0)
			a->published = &published[i];
	if (a->published == NULL)
		fail_msg("%s: no published config of \"%s\" is known", a->file, origin);
	const char *text = a->published->text;
	assert_int_equal(m2_model_config_parse(text, strlen(text), 0, &a->config, NULL), M2_OK);
}

static int open_zoo(void **state)
{
	struct dirent **names;
	(void)state;
	const int n = scandir(ZOO, &names, is_yaml, by_name);
	if (n < 1 || n > MAX_FILES)
		return -1;
	zoo = calloc((size_t)n, sizeof *zoo);
	if (zoo == NULL)
		return -1;
	n_zoo = n;
	for (int i = 0; i < n; i++) {
		read_animal(&zoo[i], names[i]->d_name);
		free(names[i]);
	}
	free(names);
	return 0;
}

static int close_zoo(void **state)
{
	(void)state;
	for (int i = 0; i < n_zoo; i++)
		free(zoo[i].text);
	free(zoo);
	return 0;
}

/* ---- the facts --------------------------------------------------------------------------------- */

static void expect(const struct animal *a, const char *line, const char *found, const char *wanted)
{
	if (strncmp(found, wanted, strlen(wanted)) != 0)
		fail_msg("%s: \"# %s:\" is \"%s\", computed \"%s\"", a->file, line, found, wanted);
}

static void every_shape_is_that_of_the_published_config(void **state)
{
	(void)state;
	for (int i = 0; i < n_zoo; i++) {
		const struct m2_model_desc *d = &zoo[i].config.desc;
		char shape[128];
		(void)snprintf(shape, sizeof shape,
			"%s d=%d L=%d H=%d P=%d N=%d G=%d K=%d rows=%d %s",
			m2_dialect_name(zoo[i].config.dialect), d->hidden_size, d->n_layers,
			d->n_heads, d->head_dim, d->state_size, d->n_groups, d->conv_kernel,
			d->vocab_rows, d->tied_head ? "tied" : "untied");
		assert_string_equal(zoo[i].shape, shape);
	}
}

/* What the definition keeps for one sequence. */
static uint64_t sequence_bytes(const struct m2_model_desc *desc)
{
	const struct m2_device_options device_options = {.threads = 1};
	const struct m2_load_options options = {
		.state = M2_DTYPE_F32, .slots = 1, .max_tokens = 64, .max_items = 1};
	const struct m2_weight_source source = {.ctx = NULL};
	const struct m2_backend *ref;
	struct m2_device *device;
	struct m2_footprint footprint;
	struct m2_why why = {"", ""};
	assert_int_equal(m2_backend_find("ref", &ref, &why), M2_OK);
	assert_int_equal(ref->open(&device_options, &device, &why), M2_OK);
	if (ref->plan(device, desc, &source, &options, &footprint, &why) != M2_OK)
		fail_msg("%s", why.text);
	ref->close(&device);
	return footprint.per_slot;
}

static void every_number_of_a_head_is_computed_from_its_shape(void **state)
{
	(void)state;
	for (int i = 0; i < n_zoo; i++) {
		const struct animal *a = &zoo[i];
		const uint64_t parameters = published_parameters(&a->config.desc);
		const uint64_t sequence = sequence_bytes(&a->config.desc);
		const char *dtype = strstr(a->weights, " bytes as ");
		char wanted[128];
		assert_non_null(dtype);
		dtype += strlen(" bytes as ");
		const char *known = strncmp(dtype, "f32", 3) == 0    ? "f32"
				    : strncmp(dtype, "f16", 3) == 0  ? "f16"
				    : strncmp(dtype, "bf16", 4) == 0 ? "bf16"
								     : NULL;
		assert_non_null(known);
		(void)snprintf(wanted, sizeof wanted, "%llu", (unsigned long long)parameters);
		assert_string_equal(a->parameters, wanted);
		(void)snprintf(wanted, sizeof wanted, "%llu bytes as %s",
			(unsigned long long)parameters * (known[1] == '3' ? 4 : 2), known);
		expect(a, "weights", a->weights, wanted);
		(void)snprintf(wanted, sizeof wanted, "%llu bytes of f32 state",
			(unsigned long long)sequence);
		assert_string_equal(a->sequence, wanted);
		(void)snprintf(wanted, sizeof wanted, "%d take %.2f GiB of state", a->v.slots,
			(double)sequence * a->v.slots / (double)(1 << 30));
		assert_string_equal(a->slots, wanted);
		/* as many as fit, by powers of two */
		assert_true(sequence * (uint64_t)a->v.slots <= STATE_BUDGET);
		assert_true(a->v.slots == MAX_SLOTS ||
			    2 * sequence * (uint64_t)a->v.slots > STATE_BUDGET);
	}
}

static void every_file_says_where_its_files_come_from_and_go(void **state)
{
	(void)state;
	for (int i = 0; i < n_zoo; i++) {
		const struct animal *a = &zoo[i];
		char file[300];
		(void)snprintf(file, sizeof file, ZOO "/%s.yaml", a->v.name);
		assert_string_equal(a->file, file);
		assert_true(strncmp(a->v.checkpoint, "/srv/models/", 12) == 0);
		assert_true(a->v.tokenizer[0] == '\0' ||
			    strncmp(a->v.tokenizer, "/srv/models/", 12) == 0);
		assert_true(a->v.description[0] != '\0' && a->v.n_aliases > 0);
		assert_int_equal(a->v.device, M2_DEVICE_AUTO);
		if (strncmp(a->origin, HUB, strlen(HUB)) != 0)
			continue; /* there is none */
		char command[512];
		const int n = (int)strcspn(a->origin + strlen(HUB), " ");
		(void)snprintf(
			command, sizeof command, "hf download %.*s ", n, a->origin + strlen(HUB));
		expect(a, "download", a->download, command);
		/* converted ones go elsewhere, beside it */
		const char *to = strstr(a->download, "--local-dir ");
		assert_non_null(to);
		to += strlen("--local-dir ");
		expect(a, "checkpoint", a->v.checkpoint, to);
		/* what the repository lacks is downloaded too */
		assert_true(strstr(a->text, "the repository has none") == NULL ||
			    (a->v.tokenizer[0] != '\0' &&
				    strstr(strchr(strstr(a->text, "\n# download:") + 1, '\n'),
					    "hf download") != NULL));
	}
}

static void every_published_packaging_has_a_file(void **state)
{
	/* by notes in the files of what they are copies of */
	static const char *const notes[] = {"brunopio/mamba2-370m", "Molbap/code2"};
	(void)state;
	for (size_t p = 0; p < N_PUBLISHED; p++) {
		bool found = false;
		for (int i = 0; i < n_zoo; i++)
			found = found || zoo[i].published == &published[p];
		for (size_t k = 0; k < sizeof notes / sizeof *notes; k++)
			for (int i = 0; i < n_zoo; i++)
				found = found || (strcmp(notes[k], published[p].repository) == 0 &&
							 strstr(zoo[i].text, notes[k]) != NULL);
		if (!found)
			fail_msg("no file for %s", published[p].repository);
	}
}

static void the_config_beside_flas_variant_is_its_default(void **state)
{
	(void)state;
	struct m2_model_config c;
	struct m2_why why = {"", ""};
	size_t length;
	char *text = test_read(ZOO "/fla-default/config.json", &length);
	if (m2_model_config_parse(text, length, 0, &c, &why) != M2_OK)
		fail_msg("%s", why.text);
	free(text);
	struct m2_model_config wanted;
	assert_int_equal(
		m2_model_config_parse(FLA_DEFAULT, strlen(FLA_DEFAULT), 0, &wanted, &why), M2_OK);
	assert_int_equal(c.dialect, wanted.dialect);
	assert_true(published_parameters(&c.desc) == published_parameters(&wanted.desc));
	assert_int_equal(c.desc.n_groups, wanted.desc.n_groups);
	assert_int_equal(c.desc.norm_before_gate, wanted.desc.norm_before_gate);
	assert_int_equal(c.desc.gated_norm, wanted.desc.gated_norm);
	assert_true(c.desc.norm_eps == wanted.desc.norm_eps && c.desc.dt_max == wanted.desc.dt_max);
	assert_int_equal(c.bos_token_id, wanted.bos_token_id);
	assert_int_equal(c.pad_token_id, wanted.pad_token_id);
	assert_int_equal(c.eos_token_ids[0], wanted.eos_token_ids[0]);
}

/* ---- living together --------------------------------------------------------------------------- */

static void tell(void *ctx, const struct m2_why *why)
{
	(void)ctx;
	print_error("%s\n", why->text);
}

static void the_whole_directory_registers_without_a_collision(void **state)
{
	struct m2_store *store;
	struct m2_scan_counts counts;
	struct m2_why why = {"", ""};
	char *directory = realpath(ZOO, NULL);
	assert_non_null(directory);
	assert_int_equal(test_dir_setup(state), 0);
	assert_int_equal(m2_store_open(test_path(state, "registry.db"), &store, &why), M2_OK);
	assert_int_equal(m2_store_scan(store, directory, 0, tell, NULL, &counts, &why), M2_OK);
	assert_int_equal(counts.failed, 0);
	assert_int_equal(counts.added, n_zoo);
	for (int i = 0; i < n_zoo; i++) {
		struct m2_variant v;
		for (int32_t k = -1; k < zoo[i].v.n_aliases; k++) {
			const char *name = k < 0 ? zoo[i].v.name : zoo[i].v.aliases[k];
			assert_int_equal(m2_store_get(store, name, &v, NULL, &why), M2_OK);
			assert_string_equal(v.name, zoo[i].v.name);
		}
	}
	assert_int_equal(m2_store_scan(store, directory, 0, tell, NULL, &counts, &why), M2_OK);
	assert_int_equal(counts.unchanged, n_zoo);
	m2_store_close(&store);
	assert_int_equal(test_dir_teardown(state), 0);
	free(directory);
}

/* In the largest unit of the three that leaves at least one. */
static void print_bytes(FILE *f, double bytes, double base, const char *const units[3])
{
	int unit = 0;
	for (bytes /= base; bytes >= base && unit < 2; bytes /= base)
		unit++;
	(void)fprintf(f, " %.*f %s |", unit == 2 ? 2 : 1, bytes, units[unit]);
}

static void print_row(FILE *f, const struct animal *a)
{
	static const char *const on_disk[] = {"kB", "MB", "GB"};
	static const char *const in_memory[] = {"KiB", "MiB", "GiB"};
	const struct m2_model_desc *d = &a->config.desc;
	(void)fprintf(f, "| `%s` | %s | %s | %d × %d | %d × %d | %d | %d | %d%s | %.1f M |",
		a->v.name,
		strncmp(a->origin, HUB, strlen(HUB)) == 0 ? a->origin + strlen(HUB) : "none",
		m2_dialect_name(a->config.dialect), d->hidden_size, d->n_layers, d->n_heads,
		d->head_dim, d->state_size, d->n_groups, d->vocab_rows, d->tied_head ? "" : " × 2",
		(double)published_parameters(d) / 1e6);
	print_bytes(f, strtod(a->weights, NULL), 1000, on_disk);
	print_bytes(f, strtod(a->sequence, NULL), 1024, in_memory);
	(void)fprintf(f, " %d | %s |\n", a->v.slots, a->licence);
}

static void the_readmes_table_is_made_of_the_files(void **state)
{
	static const char path[] = ZOO "/README.md";
	char *wanted = NULL;
	size_t size = 0, length;
	(void)state;
	char *text = test_read(path, &length);
	const char *begin = strstr(text, "<!-- table:");
	const char *end = strstr(text, "<!-- end -->");
	assert_true(begin != NULL && end != NULL && begin < end);
	begin = strchr(begin, '\n') + 1;
	FILE *f = open_memstream(&wanted, &size);
	assert_non_null(f);
	(void)fprintf(f, "%.*s", (int)(begin - text), text);
	(void)fprintf(f,
		"| name | repository | dialect | d × layers | heads × width | state | groups "
		"| vocabulary rows | parameters | weights | a sequence | slots | licence "
		"|\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | "
		"--- |\n");
	for (int i = 0; i < n_zoo; i++)
		print_row(f, &zoo[i]);
	(void)fprintf(f, "%s", end);
	assert_int_equal(fclose(f), 0);
	free(text);
	test_reference(path, wanted);
	free(wanted);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_shape_is_that_of_the_published_config),
		cmocka_unit_test(every_number_of_a_head_is_computed_from_its_shape),
		cmocka_unit_test(every_file_says_where_its_files_come_from_and_go),
		cmocka_unit_test(every_published_packaging_has_a_file),
		cmocka_unit_test(the_config_beside_flas_variant_is_its_default),
		cmocka_unit_test(the_whole_directory_registers_without_a_collision),
		cmocka_unit_test(the_readmes_table_is_made_of_the_files),
	};
	return cmocka_run_group_tests(tests, open_zoo, close_zoo);
}
