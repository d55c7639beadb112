/* inspect_print.c - an inspection as text, and as the YAML of a variant.  As JSON: inspect_json.c. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>

#include "daemon/file_check.h"
#include "daemon/inspect_internal.h"
#include "daemon/reply.h"
#include "registry/variant.h"

/* ---- figures ------------------------------------------------------------------------------------ */

static const char *next_buffer(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Into one of eight buffers in turn. */
static const char *next_buffer(const char *fmt, ...)
{
	static char buffers[8][96];
	static int turn;
	char *out = buffers[turn++ % 8];
	va_list arguments;
	va_start(arguments, fmt);
	(void)vsnprintf(out, sizeof buffers[0], fmt, arguments);
	va_end(arguments);
	return out;
}

static const char *binary(uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	int unit = 0;
	for (; value >= 1024 && unit < 4; unit++)
		value /= 1024;
	return next_buffer(unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

static const char *millions(uint64_t n)
{
	return next_buffer("%.1f M", (double)n / 1e6);
}

static const char *limit(float value)
{
	return isfinite(value) ? next_buffer("%g", (double)value) : "no limit";
}

/* ---- text --------------------------------------------------------------------------------------- */

static void row(FILE *out, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void row(FILE *out, const char *name, const char *fmt, ...)
{
	va_list arguments;
	(void)fprintf(out, "%-20s", name);
	va_start(arguments, fmt);
	(void)vfprintf(out, fmt, arguments);
	va_end(arguments);
	(void)fputc('\n', out);
}

static void print_shape(const struct m2_inspection *i, FILE *out)
{
	const struct m2_model_desc *d = &i->config.desc;
	(void)fputs("\nshape\n", out);
	row(out, "  width, layers", "%d, %d", d->hidden_size, d->n_layers);
	row(out, "  heads", "%d of %d (%d channels%s)", d->n_heads, d->head_dim, m2_desc_d_ssm(d),
		d->d_per_channel ? ", D per channel" : "");
	if (d->d_mlp > 0)
		row(out, "  mlp in the mixer", "%d channels", d->d_mlp);
	row(out, "  state", "%d, in %d group%s", d->state_size, d->n_groups,
		d->n_groups == 1 ? "" : "s");
	row(out, "  convolution", "%d taps%s", d->conv_kernel, d->conv_bias ? ", with bias" : "");
	row(out, "  projections", "%s", d->proj_bias ? "with bias" : "without bias");
	if (d->gated_norm)
		row(out, "  gated norm", "%d group%s, %s the gate, eps %g", d->norm_groups,
			d->norm_groups == 1 ? "" : "s", d->norm_before_gate ? "before" : "after",
			(double)d->norm_eps);
	else
		row(out, "  gated norm", "none; eps %g", (double)d->norm_eps);
	row(out, "  dt limits", "%g to %s", (double)d->dt_min, limit(d->dt_max));
	row(out, "  vocabulary", "%d rows, %d tokens; head %s", d->vocab_rows, i->config.vocab_size,
		d->tied_head ? "tied to the embedding" : "of its own");
}

/* What the config and generation_config say; where they say nothing the tokenizer's own counts. */
static void print_ends(const struct m2_inspection *i, FILE *out)
{
	(void)fprintf(out, "%-20s%s", "  ends of a text", i->config.n_eos == 0 ? "none named" : "");
	for (int32_t n = 0; n < i->config.n_eos; n++)
		(void)fprintf(out, "%s%d", n > 0 ? ", " : "token ", i->config.eos_token_ids[n]);
	(void)fputc('\n', out);
}

static void print_types(const struct m2_inspection *i, FILE *out)
{
	(void)fprintf(out, "%-20s", "stored as");
	bool first = true;
	for (int t = 0; t <= M2_DTYPE_F64; t++) {
		if (i->elements[t] == 0)
			continue;
		(void)fprintf(out, "%s%s %" PRIu64, first ? "" : ", ",
			m2_dtype_name((enum m2_dtype)t), i->elements[t]);
		first = false;
	}
	(void)fputs(" elements\n", out);
}

static void print_memory(const struct m2_inspection *i, FILE *out)
{
	static const struct {
		const char *name;
		size_t at;
	} weights[] = {{"  as stored", offsetof(struct m2_inspection, weights_stored)},
		{"  as f32", offsetof(struct m2_inspection, weights_f32)},
		{"  as bf16", offsetof(struct m2_inspection, weights_bf16)}};
	(void)fputs("\nweights in memory\n", out);
	for (size_t n = 0; n < sizeof weights / sizeof weights[0]; n++) {
		uint64_t bytes;
		memcpy(&bytes, (const char *)i + weights[n].at, sizeof bytes);
		if (bytes > 0)
			row(out, weights[n].name, "%" PRIu64 " bytes (%s)", bytes, binary(bytes));
	}
	(void)fputs("\none sequence\n", out);
	row(out, "  state", "%" PRIu64 " bytes (%s)", i->ssm_bytes, binary(i->ssm_bytes));
	row(out, "  convolution", "%" PRIu64 " bytes (%s)", i->conv_bytes, binary(i->conv_bytes));
	(void)fputs("\non the cpu, all together\n", out);
	for (int n = 0; n < 2; n++) {
		const struct m2_footprint *f = &i->plans[n].footprint;
		if (f->weights == 0)
			continue;
		row(out,
			i->plans[n].slots == 1 ? "  1 slot"
					       : next_buffer("  %d slots", i->plans[n].slots),
			"%" PRIu64 " bytes (%s: weights %s, state %s, workspace %s)",
			m2_inspect_total(f), binary(m2_inspect_total(f)), binary(f->weights),
			binary(f->state), binary(f->workspace));
	}
}

static const char *id_or_none(int32_t id)
{
	return id < 0 ? "none" : next_buffer("%d", id);
}

static void print_tokenizer(const struct m2_inspection *i, FILE *out)
{
	(void)fputs("\ntokenizer\n", out);
	if (i->tokenizer == NULL) {
		row(out, "  none", "%s", "token ids only");
		return;
	}
	const char *path = m2_tokenizer_path(i->tokenizer);
	row(out, "  kind", "%s", m2_tokenizer_kind(i->tokenizer));
	row(out, "  file", "%s", path != NULL ? path : "-");
	row(out, "  ids", "%d; bos %s, eos %s", m2_tokenizer_size(i->tokenizer),
		id_or_none(m2_tokenizer_bos(i->tokenizer)),
		id_or_none(m2_tokenizer_eos(i->tokenizer)));
	row(out, "  template", "%s", i->template_name != NULL ? i->template_name : "none");
}

static void print_files(const struct m2_inspection *i, FILE *out)
{
	const size_t prefix = strlen(i->options->path);
	(void)fputs("\nfiles\n", out);
	for (size_t n = 0; n < m2_checkpoint_n_files(i->checkpoint); n++) {
		const char *path = m2_checkpoint_file(i->checkpoint, n);
		const bool inside =
			strncmp(path, i->options->path, prefix) == 0 && path[prefix] == '/';
		struct m2_ipc_file file;
		if (m2_file_look(path, &file, NULL) == M2_OK)
			(void)fprintf(out, "  %s (%s)\n", inside ? path + prefix + 1 : path,
				binary(file.bytes));
	}
}

void m2_inspect_print_text(const struct m2_inspection *i, FILE *out)
{
	row(out, "path", "%s", i->options->path);
	if (i->err == M2_OK) {
		row(out, "accepted", "%s", "yes");
	} else {
		row(out, "accepted", "no (%s)", m2_err_code(i->err));
		row(out, "why not", "%s", i->why.text);
		row(out, "hint", "%s", i->hint);
	}
	if (i->checkpoint == NULL)
		return;
	row(out, "dialect", "%s", m2_dialect_name(i->config.dialect));
	row(out, "container", "%s", m2_checkpoint_container(i->checkpoint));
	row(out, "parameters", "%" PRIu64 " (%s)", m2_checkpoint_parameters(i->checkpoint),
		millions(m2_checkpoint_parameters(i->checkpoint)));
	print_types(i, out);
	row(out, "tensors", "%" PRIu64 " bytes (%s)", m2_checkpoint_bytes(i->checkpoint),
		binary(m2_checkpoint_bytes(i->checkpoint)));
	for (int32_t n = 0; n < i->config.n_corrections; n++)
		row(out, "corrected", "%s", i->config.corrections[n]);
	for (int n = 0; n < i->n_warnings; n++)
		row(out, "warning", "%s", i->warnings[n]);
	print_shape(i, out);
	print_ends(i, out);
	print_memory(i, out);
	print_tokenizer(i, out);
	print_files(i, out);
}

/* ---- YAML --------------------------------------------------------------------------------------- */

/* What the options say, as one flow mapping: the parser of variant files checks every part of it. */
static char *make_flow(const struct m2_inspection *i)
{
	const struct m2_inspect_options *o = i->options;
	const struct m2_model_desc *d = &i->config.desc;
	struct json_object *v = json_object_new_object();
	m2_reply_string(v, "name", o->name);
	struct json_object *aliases = json_object_new_array();
	for (int n = 0; n < o->n_aliases; n++)
		json_object_array_add(aliases, json_object_new_string(o->aliases[n]));
	json_object_object_add(v, "aliases", aliases);
	m2_reply_string(v, "description",
		next_buffer("%s parameters, %d layers of %d, %s",
			millions(m2_checkpoint_parameters(i->checkpoint)), d->n_layers,
			d->hidden_size, m2_dialect_name(i->config.dialect)));
	m2_reply_string(v, "checkpoint", o->path);
	if (o->tokenizer[0] != '\0')
		m2_reply_string(v, "tokenizer", o->tokenizer);
	if (o->device[0] != '\0')
		m2_reply_string(v, "device", o->device);
	if (o->weights[0] != '\0')
		m2_reply_string(v, "weights", o->weights);
	if (o->slots > 0)
		m2_reply_int(v, "slots", o->slots);
	if (o->norm_groups > 0)
		m2_reply_int(v, "norm_groups", o->norm_groups);
	const char *text = json_object_to_json_string_ext(
		v, JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);
	char *copy = text != NULL ? strdup(text) : NULL;
	json_object_put(v);
	return copy;
}

static enum m2_err make_variant(
	const struct m2_inspection *i, struct m2_variant *v, struct m2_why *why)
{
	if (!m2_variant_name_valid(i->options->name))
		return m2_fail_field(M2_EINVAL, why, "name", "--name: \"%.64s\" does not match %s",
			i->options->name, M2_NAME_PATTERN);
	char *flow = make_flow(i);
	if (flow == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	const enum m2_err err = m2_variant_parse(flow, strlen(flow), "the options", NULL, v, why);
	free(flow);
	return err;
}

enum m2_err m2_inspect_print_yaml(const struct m2_inspection *i, FILE *out, struct m2_why *why)
{
	struct m2_variant *v = malloc(sizeof *v);
	char *yaml = NULL;
	enum m2_err err = v != NULL ? make_variant(i, v, why) : M2_ENOMEM;
	if (err == M2_OK && (yaml = m2_variant_print(v, false)) == NULL)
		err = M2_ENOMEM;
	if (err == M2_ENOMEM)
		(void)m2_fail(err, why, "out of memory");
	if (err == M2_OK) /* what is printed is what would be read back */
		err = m2_variant_parse(yaml, strlen(yaml), "the options", NULL, v, why);
	if (err == M2_OK) {
		(void)fprintf(out,
			"# Made from an inspection: %s, %s, %s on the cpu with %d slots.\n",
			m2_checkpoint_container(i->checkpoint),
			i->tokenizer != NULL ? m2_tokenizer_kind(i->tokenizer) : "no tokenizer",
			binary(m2_inspect_total(&i->plans[1].footprint)), i->plans[1].slots);
		for (int n = 0; n < i->n_warnings; n++)
			(void)fprintf(out, "# warning: %s\n", i->warnings[n]);
		(void)fputs(yaml, out);
	}
	free(yaml);
	free(v);
	return err;
}
