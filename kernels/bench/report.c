/* report.c - figures to read, and the same as JSON.
 *
 * A share is what a step must move or compute over its time, as a part of the limit measured in this run:
 * the larger of the two says what bounds the step.  A model that fits a cache may show more than all.
 */
#include <math.h>
#include <stdio.h>

#include "kernels/bench/bench.h"

static double byte_share(const struct bench_run *b, const struct bench_figure *f)
{
	return f->bytes / f->seconds / b->limits.bytes;
}

static double operation_share(const struct bench_run *b, const struct bench_figure *f)
{
	return f->operations / f->seconds / b->limits.operations;
}

static const char *mode_name(const struct bench_run *b)
{
	if (b->o->mode == BENCH_LOGITS)
		return "logits to the host, one step at a time";
	return b->o->mode == BENCH_AHEAD && b->backend->step_begin != NULL
		       ? "picks fed back by the backend, two steps in flight"
		       : "picks fed back by the backend, one step at a time";
}

static uint64_t predicted(const struct bench_run *b)
{
	return b->footprint.weights + b->footprint.state + b->footprint.workspace;
}

void bench_report_head(const struct bench_run *b)
{
	const struct m2_model_desc *m = &b->o->desc;
	(void)printf("%s, %s\n", b->info.name, b->info.path);
	(void)printf("limits: reads %.1f GB/s, products %.0f Gflop/s\n", b->limits.bytes * 1e-9,
		b->limits.operations * 1e-9);
	(void)printf("%s: d %d, %d layers, %d heads of %d, state %d, %d group%s, vocabulary %d; "
		     "weights %s, state %s\n",
		b->o->shape, m->hidden_size, m->n_layers, m->n_heads, m->head_dim, m->state_size,
		m->n_groups, m->n_groups == 1 ? "" : "s", m->vocab_rows,
		m2_dtype_name(b->o->weights), m2_dtype_name(b->o->state));
	(void)printf("weights %.1f MB, a sequence %.2f MB, loaded in %.2f s; decode: %s\n",
		(double)b->footprint.weights * 1e-6, (double)b->footprint.per_slot * 1e-6,
		b->load_seconds, mode_name(b));
	if (b->runs[0] != '\0')
		(void)printf("runs by: %s\n", b->runs);
	(void)printf("memory: %llu bytes predicted, ", (unsigned long long)predicted(b));
	if (b->measured > 0)
		(void)printf("%llu measured\n", (unsigned long long)b->measured);
	else
		(void)puts("not measured: it is the host's");
	(void)printf("%-14s %10s %11s %10s %8s %6s %9s %6s\n", "", "ms", "tok/s", "MB", "GB/s", "",
		"Gflop/s", "");
	(void)fflush(stdout);
}

static void print_row(const struct bench_run *b, const char *what, const struct bench_figure *f)
{
	(void)printf("%-7s %6d ", what, f->n);
	if (f->fits)
		(void)printf("%10.3f %11.0f %10.1f %8.1f %5.1f%% %9.0f %5.1f%%\n", f->seconds * 1e3,
			f->tokens / f->seconds, f->bytes * 1e-6, f->bytes / f->seconds * 1e-9,
			100.0 * byte_share(b, f), f->operations / f->seconds * 1e-9,
			100.0 * operation_share(b, f));
	else
		(void)printf("does not fit\n");
	(void)fflush(stdout);
}

void bench_report_decode(const struct bench_run *b, const struct bench_figure *figure)
{
	print_row(b, "decode", figure);
}

void bench_report_prefill(const struct bench_run *b, const struct bench_figure *figure)
{
	print_row(b, "prompt", figure);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

/* A number that is not one is null. */
static void put(const char *key, double value, const char *after)
{
	if (isfinite(value))
		(void)printf("\"%s\": %.9g%s", key, value, after);
	else
		(void)printf("\"%s\": null%s", key, after);
}

/* Names come from the driver and the command line: nothing in them may end the string. */
static void put_text(const char *key, const char *text, const char *after)
{
	(void)printf("\"%s\": \"", key);
	for (; *text != '\0'; text++)
		(void)putchar(*text < ' ' || *text == '"' || *text == '\\' ? ' ' : *text);
	(void)printf("\"%s", after);
}

static void put_figures(const struct bench_run *b, const char *key, const char *what,
	const struct bench_figure *figures, int n, const char *after)
{
	(void)printf(" \"%s\": [", key);
	for (int i = 0; i < n; i++) {
		const struct bench_figure *f = &figures[i];
		(void)printf("%s\n  {\"%s\": %d", i > 0 ? "," : "", what, f->n);
		if (f->fits) {
			(void)printf(", \"rounds\": %d, ", f->rounds);
			put("ms", f->seconds * 1e3, ", ");
			put("fastest_ms", f->fastest * 1e3, ", ");
			put("slowest_ms", f->slowest * 1e3, ", ");
			put("tokens_per_s", f->tokens / f->seconds, ", ");
			put("bytes", f->bytes, ", ");
			put("bytes_share", byte_share(b, f), ", ");
			put("operations", f->operations, ", ");
			put("operations_share", operation_share(b, f), "}");
		} else {
			(void)printf(", \"ms\": null}");
		}
	}
	(void)printf("]%s\n", after);
}

void bench_report_json(const struct bench_run *b)
{
	const struct m2_model_desc *m = &b->o->desc;
	const struct m2_footprint *f = &b->footprint;
	(void)printf("{");
	put_text("device", b->info.name, ", ");
	put_text("path", b->info.path, ",\n ");
	(void)printf("\"limits\": {");
	put("bytes_per_s", b->limits.bytes, ", ");
	put("operations_per_s", b->limits.operations, "},\n ");
	put_text("shape", b->o->shape, ", ");
	(void)printf("\"d_model\": %d, \"layers\": %d, \"heads\": %d, \"head_dim\": %d, "
		     "\"state_size\": %d, \"groups\": %d, \"vocab\": %d,\n ",
		m->hidden_size, m->n_layers, m->n_heads, m->head_dim, m->state_size, m->n_groups,
		m->vocab_rows);
	put_text("dtype", m2_dtype_name(b->o->weights), ", ");
	put_text("state", m2_dtype_name(b->o->state), ", ");
	put_text("mode", mode_name(b), ",\n ");
	(void)printf("\"weights_bytes\": %llu, \"state_bytes\": %llu, \"workspace_bytes\": %llu, "
		     "\"slot_bytes\": %llu, ",
		(unsigned long long)f->weights, (unsigned long long)f->state,
		(unsigned long long)f->workspace, (unsigned long long)f->per_slot);
	(void)printf("\"predicted_bytes\": %llu, ", (unsigned long long)predicted(b));
	if (b->measured > 0)
		(void)printf("\"measured_bytes\": %llu, ", (unsigned long long)b->measured);
	put_text("runs", b->runs, ", ");
	put("load_s", b->load_seconds, ",\n");
	put_figures(b, "decode", "batch", b->decode, b->o->n_batch, ",");
	put_figures(b, "prefill", "tokens", b->prefill, b->o->n_prefill, "}");
}
