/* bench.h - the parts of mamba2-bench: what is asked for, what was measured.
 *
 * The engine alone, no daemon: one thread drives the backend.  Times are seconds, the median of rounds.
 * Not measured is NAN.
 */
#ifndef M2_KERNELS_BENCH_BENCH_H
#define M2_KERNELS_BENCH_BENCH_H

#include "kernels/backend.h"

enum { BENCH_LIST = 16, BENCH_ROUNDS = 7 };

/* How a decode step is driven. */
enum bench_mode {
	BENCH_AHEAD, /* picks fed back on the device, the next step begun before the last is waited for */
	BENCH_WAIT,   /* picks fed back on the device, one step at a time */
	BENCH_LOGITS, /* logits to the host, the next token from the host, one step at a time */
};

struct bench_options {
	const char *shape; /* a published one's name, or "custom" */
	struct m2_model_desc desc;
	const char *device; /* "cpu", "ref", "cuda:0", ... */
	const char *isa;
	int32_t threads;
	enum m2_dtype weights;
	enum m2_dtype state;
	int32_t batch[BENCH_LIST];
	int n_batch;
	int32_t prefill[BENCH_LIST];
	int n_prefill;
	enum bench_mode mode;
	double seconds; /* about what a figure may take, after warming up */
	bool json;
};

struct bench_figure {
	int32_t n; /* sequences of a decode, tokens of a prompt */
	bool fits; /* false: no room on the device, nothing below was measured */
	int rounds;
	double seconds, fastest, slowest; /* of a step */
	double tokens;                    /* of a step */
	double bytes;      /* that it must move: weights once, states read and written */
	double operations; /* of its matrix products with weights */
};

struct bench_limits {
	double bytes;      /* read per second */
	double operations; /* per second; a multiply-add is two */
};

struct bench_run {
	const struct bench_options *o;
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_device_info info;
	struct m2_model *model;
	struct m2_footprint footprint;
	uint64_t
		measured; /* bytes that the device has less free since the load; 0: it cannot tell */
	char runs[96];    /* m2_backend.describe; "": nothing said */
	double load_seconds;
	struct bench_limits limits;
	struct bench_figure decode[BENCH_LIST];
	struct bench_figure prefill[BENCH_LIST];
};

double bench_now(void);

/* model.c: the description of a published shape; false: there is none of that name. */
bool bench_shape(const char *name, struct m2_model_desc *m);
/* Load random weights, with slots for the largest batch that fits and steps for the longest prompt; marks
 * the batches that do not fit. */
enum m2_err bench_load(struct bench_run *b, struct m2_why *why);
/* Bytes of weights that every decode step reads, and operations per token of the layers and of the head. */
double bench_weight_bytes(const struct bench_run *b);
/* Bytes of a sequence's state that it reads and writes. */
double bench_slot_bytes(const struct bench_run *b);
double bench_layer_operations(const struct m2_model_desc *m);
double bench_head_operations(const struct m2_model_desc *m);

/* measure.c: fill in the figures, one call each. */
enum m2_err bench_decode(struct bench_run *b, struct bench_figure *figure, struct m2_why *why);
enum m2_err bench_prefill(struct bench_run *b, struct bench_figure *figure, struct m2_why *why);

/* limits.c: the device's own by its backend; those of a backend that has no measure, by threads here. */
enum m2_err bench_measure_limits(struct bench_run *b, struct m2_why *why);

/* report.c: to stdout. */
void bench_report_head(const struct bench_run *b);
void bench_report_decode(const struct bench_run *b, const struct bench_figure *figure);
void bench_report_prefill(const struct bench_run *b, const struct bench_figure *figure);
void bench_report_json(const struct bench_run *b);

#endif
