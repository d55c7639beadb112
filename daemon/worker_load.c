/* worker_load.c - the loader thread: from a variant to a plan, to a resident model, and back; and from what is
 * parked to a resident model, without the checkpoint.
 *
 * Everything that blocks on a disk or takes seconds happens here, while other models step.  A plan opens
 * the checkpoint and says to the byte what the load will take; the load then takes just that, or nothing:
 * the budget and what the device has free are held against the plan before anything is allocated.
 */
#include "daemon/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "model/checkpoint.h"
#include "model/template.h"

#define PROGRESS_NS UINT64_C(100000000)

struct load {
	struct m2_worker *worker;
	struct m2_resident *resident;
	struct m2_weight_source source;
	struct m2_load_options options;
	struct m2_lane_facts lane;
};

/* The supervisor hears at once what is being done now. */
static void begin_part(struct load *load, const char *what)
{
	struct m2_resident *r = load->resident;
	atomic_store_explicit(&r->what, what, memory_order_relaxed);
	if (!atomic_exchange(&r->progress_pending, true))
		m2_post_send(&load->worker->outbox, &r->post_progress);
}

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct load *load = ctx;
	struct m2_resident *r = load->resident;
	const uint64_t now = m2_worker_now();
	atomic_store_explicit(&r->bytes_done, done, memory_order_relaxed);
	atomic_store_explicit(&r->bytes_total, total, memory_order_relaxed);
	if (now - r->progress_ns < PROGRESS_NS && done < total)
		return;
	r->progress_ns = now;
	if (!atomic_exchange(&r->progress_pending, true))
		m2_post_send(&load->worker->outbox, &r->post_progress);
}

/* "": the checkpoint's own, if it has one; "none": none; else the one that is named. */
static enum m2_err open_tokenizer(struct m2_resident *r, struct m2_why *why)
{
	const struct m2_variant *v = &r->variant;
	if (strcmp(v->tokenizer, "none") == 0)
		return M2_OK;
	const bool named = v->tokenizer[0] != '\0';
	const enum m2_err err =
		m2_tokenizer_open(named ? v->tokenizer : v->checkpoint, &r->tokenizer, why);
	if (err == M2_ENOENT && !named) {
		m2_info("%s: no tokenizer in %s: it takes and gives token ids only", v->name,
			v->checkpoint);
		return M2_OK;
	}
	return err;
}

static void plan_lane(struct load *load)
{
	struct m2_resident *r = load->resident;
	const struct m2_variant *v = &r->variant;
	const int32_t known = r->tokenizer != NULL ? m2_tokenizer_size(r->tokenizer) : INT32_MAX;
	load->lane = (struct m2_lane_facts){
		.backend = load->worker->backend,
		.tokenizer = r->tokenizer,
		.vocab_rows = r->config.desc.vocab_rows,
		.vocab = known < r->config.vocab_size ? known : r->config.vocab_size,
		.slots = v->slots,
		.step_tokens = m2_lane_step_tokens(v->max_batch_tokens, v->slots),
	};
}

static void plan_options(struct load *load)
{
	struct m2_resident *r = load->resident;
	const struct m2_variant *v = &r->variant;
	plan_lane(load);
	load->source = m2_checkpoint_source(r->checkpoint);
	load->options = (struct m2_load_options){
		.weights = v->weights,
		.state = v->state,
		.slots = v->slots,
		.max_tokens = load->lane.step_tokens,
		.max_items = v->slots,
		.progress = on_progress,
		.progress_ctx = load,
	};
}

/* On the cpu the lane's buffers lie in the memory that the budget is about. */
static bool device_is_host(const struct m2_worker *w)
{
	return strcmp(w->backend->name, "cuda") != 0;
}

/* What follows from what the backend plans: the cost of a token, and room for paused states. */
static void measure(struct load *load)
{
	const struct m2_resident *r = load->resident;
	m2_lane_measure(&load->lane, &r->facts.footprint, r->paused_bytes);
	load->lane.step_cost = (uint64_t)r->step_cost * load->lane.cost.decode;
}

static enum m2_err plan(struct load *load, struct m2_why *why)
{
	struct m2_resident *r = load->resident;
	struct m2_footprint *f = &r->facts.footprint;
	const enum m2_err err = load->worker->backend->plan(
		load->worker->device, &r->config.desc, &load->source, &load->options, f, why);
	if (err == M2_OK)
		measure(load);
	r->facts.host = m2_lane_bytes(&load->lane);
	if (err == M2_OK && device_is_host(load->worker))
		f->workspace += r->facts.host;
	return err;
}

static uint64_t planned_bytes(const struct m2_resident *r)
{
	const struct m2_footprint *f = &r->facts.footprint;
	return f->weights + f->state + f->workspace;
}

/* Within what the supervisor allows, and what others have left of the device by now? */
static enum m2_err check_room(struct load *load, struct m2_why *why)
{
	struct m2_resident *r = load->resident;
	const struct m2_footprint *f = &r->facts.footprint;
	const uint64_t total = planned_bytes(r);
	struct m2_device_info info;
	load->worker->backend->info(load->worker->device, &info);
	const bool within = r->budget == 0 || total <= r->budget;
	/* a device that does not know what it has free says 0 */
	r->facts.crowded = within && info.memory_free > 0 && total > info.memory_free;
	if (within && r->facts.crowded == 0)
		return M2_OK;
	return m2_fail(M2_ENOMEM, why,
		"%s takes %llu bytes (weights %llu, state of %d slots %llu, workspace %llu), %llu "
		"are free",
		r->variant.name, (unsigned long long)total, (unsigned long long)f->weights,
		r->variant.slots, (unsigned long long)f->state, (unsigned long long)f->workspace,
		(unsigned long long)(within ? info.memory_free : r->budget));
}

static void fill_facts(struct load *load)
{
	struct m2_resident *r = load->resident;
	struct m2_ipc_loaded *f = &r->facts;
	struct m2_device_info info;
	const enum m2_dtype stored = load->source.dtype(load->source.ctx, 0, M2_W_IN_PROJ);
	load->worker->backend->info(load->worker->device, &info);
	f->desc = r->config.desc;
	f->vocab_size = r->config.vocab_size;
	f->tokenizer_size = r->tokenizer != NULL ? m2_tokenizer_size(r->tokenizer) : 0;
	f->parameters = m2_checkpoint_parameters(r->checkpoint);
	(void)snprintf(f->dialect, sizeof f->dialect, "%s", m2_dialect_name(r->config.dialect));
	(void)snprintf(
		f->container, sizeof f->container, "%s", m2_checkpoint_container(r->checkpoint));
	(void)snprintf(f->weights, sizeof f->weights, "%s",
		m2_dtype_name(r->variant.weights != M2_DTYPE_NONE ? r->variant.weights : stored));
	(void)snprintf(f->path, sizeof f->path, "%s", info.path);
	if (load->worker->backend->describe != NULL)
		load->worker->backend->describe(r->model, f->runs, sizeof f->runs);
	if (r->tokenizer != NULL) {
		const char *name = m2_template_name(r->tokenizer);
		(void)snprintf(
			f->tokenizer, sizeof f->tokenizer, "%s", m2_tokenizer_kind(r->tokenizer));
		(void)snprintf(f->template, sizeof f->template, "%s", name != NULL ? name : "");
	}
}

/* Everything that a plan needs, and that the load then goes on from. */
static enum m2_err open_and_plan(struct load *load, struct m2_why *why)
{
	struct m2_resident *r = load->resident;
	begin_part(load, "checking tensors");
	enum m2_err err = m2_checkpoint_open(
		r->variant.checkpoint, r->variant.norm_groups, &r->checkpoint, why);
	if (err != M2_OK)
		return err;
	r->config = *m2_checkpoint_config(r->checkpoint);
	begin_part(load, "tokenizer");
	err = open_tokenizer(r, why);
	if (err != M2_OK)
		return err;
	plan_options(load);
	return plan(load, why);
}

static uint64_t device_free(const struct load *load)
{
	struct m2_device_info info;
	load->worker->backend->info(load->worker->device, &info);
	return info.memory_free;
}

/* What the plan said, beside what the device has less now: both are told, and neither is corrected by the
 * other.  The driver gives memory in pieces of its own, and the first load of a process takes the code too. */
static void compare_memory(struct load *load, uint64_t before)
{
	struct m2_resident *r = load->resident;
	const uint64_t after = device_free(load);
	r->facts.measured =
		load->worker->backend->owns_memory && before > after ? before - after : 0;
	if (r->facts.measured > 0)
		m2_info("%s: %llu bytes of the device predicted, %llu measured", r->variant.name,
			(unsigned long long)planned_bytes(r),
			(unsigned long long)r->facts.measured);
}

static enum m2_err load_planned(struct load *load, struct m2_why *why)
{
	struct m2_resident *r = load->resident;
	enum m2_err err = check_room(load, why);
	const uint64_t before = device_free(load);
	measure(load);
	begin_part(load, "reading weights");
	if (err == M2_OK)
		err = load->worker->backend->load(load->worker->device, &r->config.desc,
			&load->source, &load->options, &r->model, why);
	if (err != M2_OK)
		return err;
	compare_memory(load, before);
	load->lane.model = r->model;
	err = m2_lane_create(&load->lane, &r->lane, why);
	if (err == M2_OK)
		fill_facts(load);
	return err;
}

/* From host memory, where park_now has put its weights: the same bytes, and slots that are zero. */
static enum m2_err return_parked(struct load *load, struct m2_why *why)
{
	struct m2_resident *r = load->resident;
	enum m2_err err = check_room(load, why);
	const uint64_t before = device_free(load);
	plan_lane(load);
	measure(load);
	if (err == M2_OK)
		err = load->worker->backend->unpark(r->model, why);
	if (err != M2_OK)
		return err;
	compare_memory(load, before);
	r->parked = 0;
	load->lane.model = r->model;
	return m2_lane_create(&load->lane, &r->lane, why);
}

static void park_now(struct m2_worker *w, struct m2_resident *r)
{
	struct m2_why why;
	m2_lane_destroy(&r->lane);
	if (w->backend->park(r->model, &r->parked, &why) == M2_OK)
		return;
	m2_warn("%s is unloaded and not parked: %s", r->variant.name, why.text);
	r->parked = 0;
	m2_worker_unload_now(w, r);
}

static void plan_now(struct m2_worker *w, struct m2_resident *r)
{
	struct load load = {.worker = w, .resident = r};
	r->err = open_and_plan(&load, &r->facts.why);
	if (r->err != M2_OK)
		m2_worker_unload_now(w, r);
}

static void load_now(struct m2_worker *w, struct m2_resident *r)
{
	struct load load = {.worker = w, .resident = r};
	const uint64_t start = m2_worker_now();
	r->err = M2_OK;
	const bool parked = r->parked > 0;
	if (parked)
		r->err = return_parked(&load, &r->facts.why);
	else if (r->checkpoint == NULL)
		r->err = open_and_plan(&load, &r->facts.why);
	else
		plan_options(&load);
	if (r->err == M2_OK && !parked)
		r->err = load_planned(&load, &r->facts.why);
	r->facts.model = r->id;
	r->facts.err = (uint32_t)r->err;
	r->facts.load_ms = (m2_worker_now() - start) / 1000000U;
	if (r->err == M2_OK)
		m2_info("%s: %s in %llu ms, %llu bytes", r->variant.name,
			parked ? "back from host memory" : "loaded",
			(unsigned long long)r->facts.load_ms, (unsigned long long)planned_bytes(r));
	else if (r->facts.crowded == 0)
		m2_worker_unload_now(w, r);
	if (r->err == M2_OK && r->checkpoint != NULL)
		m2_checkpoint_close(&r->checkpoint);
}

void m2_worker_unload_now(struct m2_worker *w, struct m2_resident *r)
{
	/* first: steps of a device that is gone may have been left under way, with picks to write there */
	if (r->model != NULL)
		w->backend->unload(&r->model);
	m2_lane_destroy(&r->lane);
	m2_tokenizer_close(&r->tokenizer);
	if (r->checkpoint != NULL)
		m2_checkpoint_close(&r->checkpoint);
}

static struct m2_resident *next_work(struct m2_worker *w)
{
	struct m2_resident *r = NULL;
	(void)pthread_mutex_lock(&w->work_lock);
	while (w->loader_first == NULL && !w->work_stop)
		(void)pthread_cond_wait(&w->loader_wake, &w->work_lock);
	if (!w->work_stop) {
		r = w->loader_first;
		w->loader_first = r->next_work;
		if (w->loader_first == NULL)
			w->loader_last = NULL;
		/* a load may take minutes; to take a model down is quick enough to be waited for */
		w->loader_busy = r->post.kind != M2_POST_UNLOADED;
	}
	(void)pthread_mutex_unlock(&w->work_lock);
	return r;
}

static void work_is_done(struct m2_worker *w)
{
	(void)pthread_mutex_lock(&w->work_lock);
	w->loader_busy = false;
	(void)pthread_mutex_unlock(&w->work_lock);
}

static void *loader_main(void *arg)
{
	struct m2_worker *w = arg;
	struct m2_resident *r;
	while ((r = next_work(w)) != NULL) {
		if (r->post.kind == M2_POST_PLANNED)
			plan_now(w, r);
		else if (r->post.kind == M2_POST_PARKED)
			park_now(w, r);
		else if (r->post.kind == M2_POST_LOADED)
			load_now(w, r);
		else
			m2_worker_unload_now(w, r);
		work_is_done(w); /* before anyone hears of it, and may ask us to end */
		m2_post_send(&w->outbox, &r->post);
	}
	return NULL;
}

enum m2_err m2_worker_loader_start(struct m2_worker *w, struct m2_why *why)
{
	const int error = pthread_create(&w->loader_thread, NULL, loader_main, w);
	if (error != 0)
		return m2_fail(M2_ENOMEM, why, "loader thread: %s", strerror(error));
	w->loader_started = true;
	return M2_OK;
}

bool m2_worker_loader_stop(struct m2_worker *w)
{
	(void)pthread_mutex_lock(&w->work_lock);
	w->work_stop = true;
	const bool busy = w->loader_busy;
	(void)pthread_cond_broadcast(&w->loader_wake);
	(void)pthread_mutex_unlock(&w->work_lock);
	if (busy)
		return false;
	if (w->loader_started)
		(void)pthread_join(w->loader_thread, NULL);
	w->loader_started = false;
	return true;
}

void m2_worker_load(struct m2_worker *w, struct m2_resident *r)
{
	/* the kind says what is wanted, and is what comes back when it is done */
	r->post.kind = r->state == M2_RESIDENT_PLANNING  ? M2_POST_PLANNED
		       : r->state == M2_RESIDENT_LOADING ? M2_POST_LOADED
		       : r->state == M2_RESIDENT_PARKING ? M2_POST_PARKED
							 : M2_POST_UNLOADED;
	r->next_work = NULL;
	(void)pthread_mutex_lock(&w->work_lock);
	if (w->loader_last != NULL)
		w->loader_last->next_work = r;
	else
		w->loader_first = r;
	w->loader_last = r;
	(void)pthread_cond_signal(&w->loader_wake);
	(void)pthread_mutex_unlock(&w->work_lock);
}
