/* inspect.c - finding out; inspect_print.c tells it.
 *
 * Every figure is asked of the code that a load runs: there is no second opinion here on what a
 * checkpoint is.
 */
#include "daemon/inspect.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/file_check.h"
#include "daemon/inspect_internal.h"
#include "daemon/scheduler.h"
#include "model/template.h"

enum { BATCH_TOKENS = 512 }; /* max_batch_tokens of a variant that does not say otherwise */

static void warn(struct m2_inspection *i, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void warn(struct m2_inspection *i, const char *fmt, ...)
{
	va_list arguments;
	if (i->n_warnings == M2_INSPECT_WARNINGS)
		return;
	va_start(arguments, fmt);
	(void)vsnprintf(i->warnings[i->n_warnings++], M2_INSPECT_WARNING_BYTES, fmt, arguments);
	va_end(arguments);
}

static const char *hint_of(enum m2_err err)
{
	switch (err) {
	case M2_ENOENT:
		return "a checkpoint is a directory with config.json (or params.json) and weights, "
		       "or "
		       "one .gguf file";
	case M2_EACCES:
		return "it must be readable by you now, and by the daemon's user when it is loaded";
	case M2_EFORMAT:
		return "a file is damaged, cut short, or not what its name says: fetch it again "
		       "and "
		       "compare its checksum";
	case M2_EUNSUPPORTED:
		return "the files may be sound: this program runs pure Mamba-2 models in f32, f16 "
		       "and "
		       "bf16";
	case M2_EINVAL:
		return "the configuration contradicts itself or its tensors: compare it with the "
		       "one "
		       "that was published";
	default:
		return m2_err_advice(err);
	}
}

/* ---- figures ------------------------------------------------------------------------------------ */

/* The checked description keeps these far from overflow: L, H, P, N and K have bounds of their own. */
static void count_state(struct m2_inspection *i)
{
	const struct m2_model_desc *d = &i->config.desc;
	const uint64_t layers = (uint64_t)d->n_layers;
	i->ssm_bytes =
		layers * (uint64_t)m2_desc_d_ssm(d) * (uint64_t)d->state_size * sizeof(float);
	i->conv_bytes = layers * (uint64_t)m2_desc_conv_channels(d) *
			(uint64_t)(d->conv_kernel - 1) * sizeof(float);
}

static enum m2_err plan(struct m2_inspection *i, const struct m2_backend *backend,
	struct m2_device *device, enum m2_dtype weights, int32_t slots, struct m2_footprint *out)
{
	const int32_t known =
		i->tokenizer != NULL ? m2_tokenizer_size(i->tokenizer) : i->config.vocab_size;
	const int32_t step_tokens = m2_lane_step_tokens(BATCH_TOKENS, slots);
	const struct m2_weight_source source = m2_checkpoint_source(i->checkpoint);
	const struct m2_load_options options = {.weights = weights,
		.state = M2_DTYPE_F32,
		.slots = slots,
		.max_tokens = step_tokens,
		.max_items = slots};
	struct m2_lane_facts lane = {.backend = backend,
		.tokenizer = i->tokenizer,
		.vocab_rows = i->config.desc.vocab_rows,
		.vocab = known < i->config.vocab_size ? known : i->config.vocab_size,
		.slots = slots,
		.step_tokens = step_tokens};
	struct m2_why why;
	const enum m2_err err =
		backend->plan(device, &i->config.desc, &source, &options, out, &why);
	if (err == M2_OK) { /* as a daemon does that is not told otherwise */
		m2_lane_measure(&lane, out, M2_PAUSED_AS_SLOTS);
		out->workspace += m2_lane_bytes(&lane);
	} else if (i->err == M2_OK && weights == M2_DTYPE_NONE) {
		i->err = err;
		i->why = why;
		i->hint = hint_of(err);
	}
	return err;
}

static void make_plans(struct m2_inspection *i)
{
	const int32_t slots[] = {1, i->options->slots > 0 ? i->options->slots : 16};
	const struct m2_device_options device_options = {.threads = 0}; /* as the daemon does */
	const struct m2_backend *backend;
	struct m2_device *device = NULL;
	struct m2_footprint f;
	struct m2_why why;
	if (m2_backend_find("cpu", &backend, &why) != M2_OK ||
		backend->open(&device_options, &device, &why) != M2_OK) {
		warn(i, "what it would take is not known: %s", why.text);
		return;
	}
	for (int n = 0; n < 2; n++) {
		i->plans[n].slots = slots[n];
		if (plan(i, backend, device, M2_DTYPE_NONE, slots[n], &i->plans[n].footprint) ==
			M2_OK)
			i->weights_stored = i->plans[n].footprint.weights;
	}
	if (plan(i, backend, device, M2_DTYPE_F32, 1, &f) == M2_OK)
		i->weights_f32 = f.weights;
	if (plan(i, backend, device, M2_DTYPE_BF16, 1, &f) == M2_OK)
		i->weights_bf16 = f.weights;
	backend->close(&device);
}

/* ---- warnings ----------------------------------------------------------------------------------- */

static void warn_of_vocabulary(struct m2_inspection *i)
{
	const int32_t rows = i->config.desc.vocab_rows;
	if (i->tokenizer == NULL) {
		if (i->err == M2_OK)
			warn(i, "no tokenizer: it takes and gives token ids only, unless "
				"--tokenizer "
				"names one");
		return;
	}
	const int32_t ids = m2_tokenizer_size(i->tokenizer);
	if (ids < rows)
		warn(i,
			"the vocabulary has %d rows and the tokenizer %d ids: the other %d rows "
			"are "
			"padding and never chosen",
			rows, ids, rows - ids);
	if (ids > rows)
		warn(i,
			"the tokenizer has %d ids and the vocabulary %d rows: a text whose ids go "
			"beyond them is refused; is it this model's tokenizer?",
			ids, rows);
}

static void warn_of_ends(struct m2_inspection *i)
{
	const struct m2_model_config *c = &i->config;
	const int32_t eos = i->tokenizer != NULL ? m2_tokenizer_eos(i->tokenizer) : -1;
	bool agrees = eos < 0;
	for (int32_t n = 0; n < c->n_eos; n++)
		agrees = agrees || c->eos_token_ids[n] == eos;
	if (c->n_eos == 0 && eos < 0)
		warn(i, "no token that ends a text is known: generation ends by --max-tokens or "
			"stop "
			"strings only");
	else if (c->n_eos > 0 && !agrees)
		warn(i, "the configuration ends a text with token %d, the tokenizer with %d",
			c->eos_token_ids[0], eos);
}

static void warn_of_config(struct m2_inspection *i)
{
	const struct m2_model_desc *d = &i->config.desc;
	if (i->config.dialect == M2_DIALECT_TRANSFORMERS && d->n_groups > 1 &&
		i->options->norm_groups == 0)
		warn(i,
			"the gated norm runs in %d groups, as the model was defined; one that was "
			"trained in transformers without its kernels wants one group "
			"(--norm-groups "
			"1): the right one gives text the clearly higher likelihood",
			d->norm_groups);
	if (i->elements[M2_DTYPE_F64] > 0)
		warn(i, "%llu elements are stored as f64 and are narrowed to f32",
			(unsigned long long)i->elements[M2_DTYPE_F64]);
}

/* ---- */

static void look(struct m2_inspection *i)
{
	const struct m2_inspect_options *o = i->options;
	i->err = m2_checkpoint_open(o->path, o->norm_groups, &i->checkpoint, &i->why);
	if (i->err != M2_OK) {
		i->checkpoint = NULL;
		i->hint = hint_of(i->err);
		return;
	}
	i->config = *m2_checkpoint_config(i->checkpoint);
	m2_checkpoint_elements(i->checkpoint, i->elements);
	i->err = m2_file_tokenizer(o->path, o->tokenizer, &i->tokenizer, &i->why);
	if (i->err != M2_OK)
		i->hint = "--tokenizer PATH names another one; with --tokenizer none the variant "
			  "takes "
			  "and gives token ids only";
	if (i->tokenizer != NULL)
		i->template_name = m2_template_name(i->tokenizer);
	count_state(i);
	make_plans(i);
	warn_of_vocabulary(i);
	warn_of_ends(i);
	warn_of_config(i);
}

static int print(const struct m2_inspection *i, FILE *out)
{
	struct m2_why why;
	switch (i->options->form) {
	case M2_INSPECT_TEXT:
		m2_inspect_print_text(i, out);
		break;
	case M2_INSPECT_JSON:
		m2_inspect_print_json(i, out);
		break;
	case M2_INSPECT_YAML:
		if (i->err != M2_OK) {
			(void)fprintf(stderr, "mamba2d: %s (%s)\nhint: %s\n", i->why.text,
				m2_err_code(i->err), i->hint);
			break;
		}
		if (m2_inspect_print_yaml(i, out, &why) != M2_OK) {
			(void)fprintf(stderr, "mamba2d: %s\n", why.text);
			return 2;
		}
		break;
	}
	return i->err == M2_OK ? 0 : 1;
}

int m2_inspect_run(const struct m2_inspect_options *options, FILE *out)
{
	struct m2_inspection *i = calloc(1, sizeof *i);
	if (i == NULL) {
		(void)fputs("out of memory\n", stderr);
		return 1;
	}
	i->options = options;
	look(i);
	int status = print(i, out);
	if (fflush(out) != 0 || ferror(out) != 0)
		status = 1;
	m2_tokenizer_close(&i->tokenizer);
	if (i->checkpoint != NULL)
		m2_checkpoint_close(&i->checkpoint);
	free(i);
	return status;
}
