/* inspect_json.c - an inspection as JSON.  The keys are stable: programs read them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>

#include "common/utf8.h"
#include "daemon/file_check.h"
#include "daemon/inspect_internal.h"
#include "daemon/reply.h"

static void put_text(struct json_object *o, const char *name, const char *text)
{
	if (text == NULL)
		json_object_object_add(o, name, NULL);
	else
		m2_reply_string(o, name, m2_utf8_valid(text, strlen(text)) ? text : "(not UTF-8)");
}

static void put_float(struct json_object *o, const char *name, float value)
{
	char text[32];
	for (int digits = 6; digits <= 9; digits++) { /* the fewest that give it back */
		(void)snprintf(text, sizeof text, "%.*g", digits, (double)value);
		if (strtof(text, NULL) == value)
			break;
	}
	json_object_object_add(
		o, name, isfinite(value) ? json_object_new_double_s((double)value, text) : NULL);
}

static void put_strings(struct json_object *o, const char *name, const char *const *texts, int n)
{
	struct json_object *array = json_object_new_array();
	for (int k = 0; k < n; k++)
		json_object_array_add(array, json_object_new_string(texts[k]));
	json_object_object_add(o, name, array);
}

static struct json_object *new_shape(const struct m2_model_config *c)
{
	const struct m2_model_desc *d = &c->desc;
	struct json_object *o = json_object_new_object();
	m2_reply_int(o, "hidden_size", d->hidden_size);
	m2_reply_int(o, "layers", d->n_layers);
	m2_reply_int(o, "heads", d->n_heads);
	m2_reply_int(o, "head_dim", d->head_dim);
	m2_reply_int(o, "state_size", d->state_size);
	m2_reply_int(o, "groups", d->n_groups);
	m2_reply_int(o, "norm_groups", d->norm_groups);
	m2_reply_int(o, "conv_kernel", d->conv_kernel);
	m2_reply_int(o, "d_mlp", d->d_mlp);
	m2_reply_int(o, "vocab_rows", d->vocab_rows);
	m2_reply_int(o, "vocab_size", c->vocab_size);
	m2_reply_bool(o, "tied_head", d->tied_head);
	m2_reply_bool(o, "proj_bias", d->proj_bias);
	m2_reply_bool(o, "conv_bias", d->conv_bias);
	m2_reply_bool(o, "gated_norm", d->gated_norm);
	m2_reply_bool(o, "norm_before_gate", d->norm_before_gate);
	m2_reply_bool(o, "d_per_channel", d->d_per_channel);
	put_float(o, "norm_eps", d->norm_eps);
	put_float(o, "dt_min", d->dt_min);
	put_float(o, "dt_max", d->dt_max);
	return o;
}

static struct json_object *new_memory(const struct m2_inspection *i)
{
	struct json_object *o = json_object_new_object();
	m2_reply_u64(o, "tensors", m2_checkpoint_bytes(i->checkpoint));
	m2_reply_u64(o, "weights_stored", i->weights_stored);
	m2_reply_u64(o, "weights_f32", i->weights_f32);
	m2_reply_u64(o, "weights_bf16", i->weights_bf16);
	m2_reply_u64(o, "sequence", i->ssm_bytes + i->conv_bytes);
	m2_reply_u64(o, "sequence_ssm", i->ssm_bytes);
	m2_reply_u64(o, "sequence_conv", i->conv_bytes);
	return o;
}

static struct json_object *new_plans(const struct m2_inspection *i)
{
	struct json_object *array = json_object_new_array();
	for (int n = 0; n < 2; n++) {
		const struct m2_footprint *f = &i->plans[n].footprint;
		struct json_object *o = json_object_new_object();
		m2_reply_int(o, "slots", i->plans[n].slots);
		m2_reply_u64(o, "weights", f->weights);
		m2_reply_u64(o, "state", f->state);
		m2_reply_u64(o, "workspace", f->workspace);
		m2_reply_u64(o, "per_slot", f->per_slot);
		m2_reply_u64(o, "total", m2_inspect_total(f));
		json_object_array_add(array, o);
	}
	return array;
}

static struct json_object *new_tokenizer(const struct m2_inspection *i)
{
	if (i->tokenizer == NULL)
		return NULL;
	struct json_object *o = json_object_new_object();
	put_text(o, "kind", m2_tokenizer_kind(i->tokenizer));
	put_text(o, "path", m2_tokenizer_path(i->tokenizer));
	m2_reply_int(o, "ids", m2_tokenizer_size(i->tokenizer));
	m2_reply_int(o, "bos", m2_tokenizer_bos(i->tokenizer));
	m2_reply_int(o, "eos", m2_tokenizer_eos(i->tokenizer));
	put_text(o, "template", i->template_name);
	return o;
}

static struct json_object *new_files(const struct m2_inspection *i)
{
	struct json_object *array = json_object_new_array();
	for (size_t n = 0; n < m2_checkpoint_n_files(i->checkpoint); n++) {
		struct m2_ipc_file file;
		const char *path = m2_checkpoint_file(i->checkpoint, n);
		struct json_object *o = json_object_new_object();
		put_text(o, "path", path);
		m2_reply_u64(o, "bytes", m2_file_look(path, &file, NULL) == M2_OK ? file.bytes : 0);
		json_object_array_add(array, o);
	}
	return array;
}

static void put_checkpoint(const struct m2_inspection *i, struct json_object *o)
{
	struct json_object *types = json_object_new_object();
	struct json_object *ends = json_object_new_array();
	const char *warnings[M2_INSPECT_WARNINGS];
	for (int32_t n = 0; n < i->config.n_eos; n++)
		json_object_array_add(ends, json_object_new_int(i->config.eos_token_ids[n]));
	for (int t = 0; t <= M2_DTYPE_F64; t++)
		if (i->elements[t] > 0)
			m2_reply_u64(types, m2_dtype_name((enum m2_dtype)t), i->elements[t]);
	for (int n = 0; n < i->n_warnings; n++)
		warnings[n] = i->warnings[n];
	m2_reply_string(o, "dialect", m2_dialect_name(i->config.dialect));
	m2_reply_string(o, "container", m2_checkpoint_container(i->checkpoint));
	put_strings(o, "corrections", i->config.corrections, i->config.n_corrections);
	put_strings(o, "warnings", warnings, i->n_warnings);
	m2_reply_u64(o, "parameters", m2_checkpoint_parameters(i->checkpoint));
	json_object_object_add(o, "elements", types);
	json_object_object_add(o, "shape", new_shape(&i->config));
	json_object_object_add(o, "eos", ends);
	json_object_object_add(o, "bytes", new_memory(i));
	json_object_object_add(o, "cpu", new_plans(i));
	json_object_object_add(o, "tokenizer", new_tokenizer(i));
	json_object_object_add(o, "files", new_files(i));
}

void m2_inspect_print_json(const struct m2_inspection *i, FILE *out)
{
	struct json_object *o = json_object_new_object();
	put_text(o, "path", i->options->path);
	m2_reply_bool(o, "accepted", i->err == M2_OK);
	if (i->err != M2_OK) {
		json_object_object_add(o, "error", m2_reply_error_object(i->err, &i->why));
		m2_reply_string(o, "hint", i->hint);
	}
	if (i->checkpoint != NULL)
		put_checkpoint(i, o);
	const char *text = json_object_to_json_string_ext(
		o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
	(void)fprintf(out, "%s\n", text != NULL ? text : "{}");
	json_object_put(o);
}
