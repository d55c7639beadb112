/* load_weights.c - several threads read, convert and pack a model's weights.
 *
 * The time of a load from the page cache goes into three walks: the kernel clears the fresh pages,
 * copies the file's bytes out, and the rows are packed into panels.  Each thread does all three for
 * a stretch of its own, so that what one walk leaves in the processor's cache the next one finds
 * there: pieces are small beside the second cache, and a thread takes many of them that lie side by
 * side, because two threads in one huge page would both clear it.
 *
 * One lock stands over what is handed out, what is done and what went wrong; it is taken once per
 * share.  A host holds the model once and a buffer per thread.
 *
 * Nothing here knows what is behind the source: every container is ranges of a file.
 */
#include "kernels/cpu/load.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
	MOST_THREADS = 4, /* as many keep any memory busy that one processor has */
	USUAL_SHARE = 8 << 20,
	USUAL_PIECE = 256 << 10,
	USUAL_BUFFER = 1 << 20,
	LEAST_BUFFER = 1024, /* a column of any type and its like */
	VECTOR_PIECE = 512,  /* elements that are widened at a time */
	HUGE_PAGE = 2 << 20,
};

/* What a thread takes: panels of a matrix, a whole vector, or a part of the state. */
struct share {
	int32_t layer;
	enum m2_weight which; /* M2_W_COUNT: bytes of the state */
	size_t first;
	size_t count;
};

struct loading {
	struct m2_model *model;
	const struct m2_weight_source *source;
	const struct m2_load_options *options;
	struct m2_cpu_loading cut;

	atomic_bool stop; /* a thread has failed: looked at between pieces */
	pthread_mutex_t lock;
	struct share next; /* under the lock, as all below; count means nothing */
	uint64_t done;
	enum m2_err err;
	struct m2_why why;
};

/* ---- where a weight goes -------------------------------------------------------------------- */

/* The matrix that holds panel `panel` of a weight, and in *before the panels of it that come before
 * the matrix's own.  Rows of a weight may be kept in two matrices, one after the other. */
static const struct m2_matrix *matrix_of(
	const struct m2_model *m, int32_t layer, enum m2_weight which, size_t panel, size_t *before)
{
	*before = 0;
	switch (which) {
	case M2_W_EMBEDDING:
		return &m->embedding;
	case M2_W_HEAD:
		return &m->head;
	case M2_W_IN_PROJ:
		if (panel < m2_matrix_panels(&m->layers[layer].in_proj))
			return &m->layers[layer].in_proj;
		*before = m2_matrix_panels(&m->layers[layer].in_proj);
		return &m->layers[layer].dt_proj;
	default:
		return &m->layers[layer].out_proj;
	}
}

static size_t panels_of(const struct m2_model *m, int32_t layer, enum m2_weight which)
{
	size_t before;
	const size_t panels = m2_matrix_panels(matrix_of(m, layer, which, 0, &before));
	return which == M2_W_IN_PROJ ? panels + m2_matrix_panels(&m->layers[layer].dt_proj)
				     : panels;
}

static float *vector_of(const struct m2_model *m, int32_t layer, enum m2_weight which)
{
	if (which == M2_W_FINAL_NORM)
		return m->final_norm;
	const struct m2_cpu_layer *l = &m->layers[layer];
	switch (which) {
	case M2_W_NORM:
		return l->norm;
	case M2_W_IN_BIAS:
		return l->in_bias;
	case M2_W_CONV:
		return l->conv;
	case M2_W_CONV_BIAS:
		return l->conv_bias;
	case M2_W_DT_BIAS:
		return l->dt_bias;
	case M2_W_A_LOG:
		return l->a;
	case M2_W_D:
		return l->d;
	case M2_W_GATED_NORM:
		return l->gated_norm;
	default:
		return l->out_bias;
	}
}

/* ---- vectors -------------------------------------------------------------------------------- */

static float negated_exp(float a_log)
{
	const float a = -expf(a_log);
	return a < -FLT_MAX ? -FLT_MAX : a; /* so that the chunked form's differences are numbers */
}

/* Elements [first, first + n) of a vector, widened, to where the step wants them. */
static void place_vector(struct m2_model *m, int32_t layer, enum m2_weight which, size_t first,
	const float *from, size_t n)
{
	const size_t taps = (size_t)m->desc.conv_kernel, stride = (size_t)m->channel_stride;
	float *to = vector_of(m, layer, which);
	for (size_t i = 0; i < n; i++) {
		const size_t at = first + i;
		if (which == M2_W_CONV)
			to[at % taps * stride + at / taps] = from[i];
		else if (which == M2_W_A_LOG && !m->desc.a_given)
			to[at] = negated_exp(from[i]);
		else if (which == M2_W_A_LOG && from[i] < -FLT_MAX)
			to[at] = -FLT_MAX;
		else
			to[at] = from[i];
	}
}

static enum m2_err load_vector(
	struct loading *l, const struct share *s, unsigned char *buffer, struct m2_why *why)
{
	const enum m2_dtype stored = l->source->dtype(l->source->ctx, s->layer, s->which);
	const size_t n = m2_weight_elements(&l->model->desc, s->which);
	const size_t bytes = m2_dtype_bytes(stored), most = l->cut.buffer / bytes;
	for (size_t first = 0; first < n; first += most) {
		const size_t count = n - first < most ? n - first : most;
		const enum m2_err err = l->source->read(
			l->source->ctx, s->layer, s->which, first, count, buffer, why);
		if (err != M2_OK)
			return err;
		for (size_t i = 0; i < count; i += VECTOR_PIECE) {
			const size_t some = count - i < VECTOR_PIECE ? count - i : VECTOR_PIECE;
			float wide[VECTOR_PIECE];
			l->model->device->kernels->convert(
				wide, M2_DTYPE_F32, buffer + i * bytes, stored, some);
			place_vector(l->model, s->layer, s->which, first + i, wide, some);
		}
	}
	return M2_OK;
}

/* ---- matrices ------------------------------------------------------------------------------- */

/* A matrix that panels of are being loaded. */
struct target {
	const struct m2_matrix *m;
	enum m2_dtype stored;
	size_t panel_bytes; /* as stored */
	size_t first_row;   /* of the weight, where the matrix begins */
};

static int32_t rows_of_panel(const struct m2_matrix *m, size_t panel)
{
	const size_t left = (size_t)m->rows - panel * M2_PANEL;
	return left < M2_PANEL ? (int32_t)left : M2_PANEL;
}

static unsigned char *panel_at(const struct m2_matrix *m, size_t panel)
{
	return m2_matrix_panel(m, (int32_t)panel);
}

/* A panel from all its rows. */
static void pack_rows(const struct m2_cpu_kernels *k, const struct target *t, size_t panel,
	const unsigned char *raw)
{
	const size_t cols = (size_t)t->m->cols;
	const int32_t rows = rows_of_panel(t->m, panel);
	float *scales = m2_matrix_panel(t->m, (int32_t)panel);
	if (t->m->dtype == M2_DTYPE_INT8)
		for (int32_t r = 0; r < M2_PANEL; r++)
			scales[r] =
				r < rows ? k->scale(raw + (size_t)r * (t->panel_bytes / M2_PANEL),
						   t->stored, cols)
					 : 0.0f;
	k->pack(m2_matrix_columns(t->m, (int32_t)panel), t->m->dtype, raw, t->stored, cols, rows,
		cols, t->m->dtype == M2_DTYPE_INT8 ? scales : NULL);
}

/* Bring the huge pages that begin in a piece, before its bytes are read: to clear one sweeps out the
 * second cache, where they are to be found again when they are packed. */
static void touch_pages(unsigned char *piece, size_t bytes)
{
	for (size_t i = -(uintptr_t)piece & (HUGE_PAGE - 1); i < bytes; i += HUGE_PAGE)
		m2_region_touch(piece + i, 1);
}

/* Whole panels, by one read to `raw`, which has room for them. */
static enum m2_err load_panels(struct loading *l, const struct share *s, const struct target *t,
	size_t panel, size_t count, unsigned char *raw, struct m2_why *why)
{
	const size_t cols = (size_t)t->m->cols, first = panel * M2_PANEL;
	const size_t last = first + count * M2_PANEL;
	const size_t rows = (last < (size_t)t->m->rows ? last : (size_t)t->m->rows) - first;
	touch_pages(panel_at(t->m, panel), count * m2_matrix_panel_bytes(t->m));
	touch_pages(raw, count * t->panel_bytes);
	const enum m2_err err = l->source->read(l->source->ctx, s->layer, s->which,
		(t->first_row + first) * cols, rows * cols, raw, why);
	for (size_t i = 0; err == M2_OK && i < count; i++)
		pack_rows(l->model->device->kernels, t, panel + i, raw + i * t->panel_bytes);
	return err;
}

/* The scales of a panel wider than the buffer, for which it is read once more. */
static enum m2_err load_scales(struct loading *l, const struct share *s, const struct target *t,
	size_t panel, unsigned char *buffer, struct m2_why *why)
{
	const size_t cols = (size_t)t->m->cols, most = l->cut.buffer / m2_dtype_bytes(t->stored);
	const size_t rows = (size_t)rows_of_panel(t->m, panel);
	float *scales = m2_matrix_panel(t->m, (int32_t)panel);
	for (size_t r = 0; r < M2_PANEL; r++)
		scales[r] = 0.0f;
	for (size_t r = 0; r < rows; r++) {
		for (size_t col = 0; col < cols; col += most) {
			const size_t n = cols - col < most ? cols - col : most;
			const enum m2_err err = l->source->read(l->source->ctx, s->layer, s->which,
				(t->first_row + panel * M2_PANEL + r) * cols + col, n, buffer, why);
			if (err != M2_OK)
				return err;
			scales[r] = m2_scale_larger(
				scales[r], l->model->device->kernels->scale(buffer, t->stored, n));
		}
	}
	return M2_OK;
}

/* A panel wider than the buffer: some columns of all its rows at a time. */
static enum m2_err load_wide_panel(struct loading *l, const struct share *s, const struct target *t,
	size_t panel, unsigned char *buffer, struct m2_why *why)
{
	const size_t cols = (size_t)t->m->cols, bytes = m2_dtype_bytes(t->stored);
	const size_t most = l->cut.buffer / (M2_PANEL * bytes);
	const size_t column_bytes = M2_PANEL * m2_dtype_bytes(t->m->dtype);
	const int32_t rows = rows_of_panel(t->m, panel);
	const float *scales = NULL;
	if (t->m->dtype == M2_DTYPE_INT8) {
		const enum m2_err err = load_scales(l, s, t, panel, buffer, why);
		if (err != M2_OK)
			return err;
		scales = m2_matrix_panel(t->m, (int32_t)panel);
	}
	for (size_t col = 0; col < cols && !atomic_load(&l->stop); col += most) {
		const size_t n = cols - col < most ? cols - col : most;
		for (size_t r = 0; r < (size_t)rows; r++) {
			const enum m2_err err = l->source->read(l->source->ctx, s->layer, s->which,
				(t->first_row + panel * M2_PANEL + r) * cols + col, n,
				buffer + r * n * bytes, why);
			if (err != M2_OK)
				return err;
		}
		unsigned char *to = m2_matrix_columns(t->m, (int32_t)panel);
		l->model->device->kernels->pack(to + col * column_bytes, t->m->dtype, buffer,
			t->stored, n, rows, n, scales);
	}
	return M2_OK;
}

static enum m2_err load_matrix(
	struct loading *l, const struct share *s, unsigned char *buffer, struct m2_why *why)
{
	size_t before;
	const struct m2_matrix *m = matrix_of(l->model, s->layer, s->which, s->first, &before);
	const enum m2_dtype stored = l->source->dtype(l->source->ctx, s->layer, s->which);
	const struct target t = {m, stored, M2_PANEL * (size_t)m->cols * m2_dtype_bytes(stored),
		before > 0 ? (size_t)l->model->layers[s->layer].in_proj.rows : 0};
	const size_t start = s->first - before;
	const size_t fit = l->cut.piece / t.panel_bytes, most = fit > 0 ? fit : 1;
	enum m2_err err = M2_OK;
	for (size_t i = 0; i < s->count && err == M2_OK && !atomic_load(&l->stop); i += most) {
		const size_t n = s->count - i < most ? s->count - i : most;
		/* Where nothing is converted, the place of the next piece serves as the buffer: the
		 * read is the first to write there, and the packing then finds it in the cache. */
		unsigned char *raw = stored == m->dtype && i + n + most <= s->count
					     ? panel_at(m, start + i + n)
					     : buffer;
		err = t.panel_bytes <= l->cut.buffer
			      ? load_panels(l, s, &t, start + i, n, raw, why)
			      : load_wide_panel(l, s, &t, start + i, buffer, why);
	}
	return err;
}

/* ---- shares --------------------------------------------------------------------------------- */

/* Move `next` on to a weight that the model has, or to the state behind the last. */
static void find_weight(struct loading *l)
{
	struct share *s = &l->next;
	const struct m2_model_desc *desc = &l->model->desc;
	while (s->layer < desc->n_layers) {
		for (; s->which < M2_W_COUNT; s->which++)
			if (m2_weight_elements(desc, s->which) > 0 &&
				m2_weight_of_model(s->which) == (s->layer < 0))
				return;
		s->which = (enum m2_weight)0;
		s->layer++;
	}
	s->which = M2_W_COUNT;
}

/* The next share; false when there is none or a thread has failed. */
static bool take(struct loading *l, struct share *out)
{
	bool more = false;
	(void)pthread_mutex_lock(&l->lock);
	if (l->err == M2_OK) {
		size_t all = 1, most = 1;
		find_weight(l);
		*out = l->next;
		if (out->which == M2_W_COUNT) {
			all = (size_t)l->model->footprint.state;
			most = l->cut.share;
		} else if (m2_weight_is_matrix(out->which)) {
			size_t before;
			const struct m2_matrix *m =
				matrix_of(l->model, out->layer, out->which, out->first, &before);
			const size_t fit = l->cut.share / m2_matrix_panel_bytes(m);
			const size_t left = before + m2_matrix_panels(m) - out->first;
			all = panels_of(l->model, out->layer, out->which);
			most = fit == 0 ? 1 : fit < left ? fit : left;
		}
		more = out->first < all;
		out->count = all - out->first < most ? all - out->first : most;
		l->next.first += out->count;
		if (out->which < M2_W_COUNT && l->next.first == all) {
			l->next.first = 0;
			l->next.which++;
		}
	}
	(void)pthread_mutex_unlock(&l->lock);
	return more;
}

static uint64_t resident_bytes(const struct loading *l, const struct share *s)
{
	if (s->which == M2_W_COUNT)
		return 0;
	if (!m2_weight_is_matrix(s->which))
		return m2_weight_elements(&l->model->desc, s->which) * sizeof(float);
	size_t before;
	return s->count *
	       m2_matrix_panel_bytes(matrix_of(l->model, s->layer, s->which, s->first, &before));
}

/* Book a share, and say so: under the lock, so that what is said only grows. */
static void finish(
	struct loading *l, const struct share *s, enum m2_err err, const struct m2_why *why)
{
	(void)pthread_mutex_lock(&l->lock);
	if (err != M2_OK && l->err == M2_OK) {
		l->err = err;
		l->why = *why;
		atomic_store(&l->stop, true);
	}
	if (l->err == M2_OK && s->which < M2_W_COUNT) {
		l->done += resident_bytes(l, s);
		if (l->options->progress != NULL)
			l->options->progress(
				l->options->progress_ctx, l->done, l->model->footprint.weights);
	}
	(void)pthread_mutex_unlock(&l->lock);
}

static enum m2_err load_share(
	struct loading *l, const struct share *s, unsigned char *buffer, struct m2_why *why)
{
	if (s->which == M2_W_COUNT) {
		m2_region_touch((unsigned char *)l->model->state + s->first, s->count);
		return M2_OK;
	}
	return m2_weight_is_matrix(s->which) ? load_matrix(l, s, buffer, why)
					     : load_vector(l, s, buffer, why);
}

static void *load_shares(void *ctx)
{
	struct loading *l = ctx;
	struct share share = {.which = M2_W_COUNT};
	struct m2_why why = {.text = ""};
	unsigned char *buffer = aligned_alloc(M2_CPU_ALIGN, l->cut.buffer);
	if (buffer == NULL)
		finish(l, &share,
			m2_fail(M2_ENOMEM, &why, "no memory for a buffer of %zu bytes to load by",
				l->cut.buffer),
			&why);
	while (buffer != NULL && take(l, &share))
		finish(l, &share, load_share(l, &share, buffer, &why), &why);
	free(buffer);
	return NULL;
}

/* ---- threads -------------------------------------------------------------------------------- */

struct m2_cpu_loading m2_cpu_loading_usual(const struct m2_device *device)
{
	return (struct m2_cpu_loading){
		.threads = device->threads < MOST_THREADS ? device->threads : MOST_THREADS,
		.share = USUAL_SHARE,
		.piece = USUAL_PIECE,
		.buffer = USUAL_BUFFER,
	};
}

/* This thread and others beside it; one that cannot be started leaves its work to the rest. */
static void run(struct loading *l)
{
	pthread_t threads[MOST_THREADS];
	sigset_t all, before;
	int32_t started = 0;

	/* Signals are for the threads that expect them. */
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	while (started < l->cut.threads - 1 &&
		pthread_create(&threads[started], NULL, load_shares, l) == 0)
		started++;
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	(void)load_shares(l);
	for (int32_t i = 0; i < started; i++)
		(void)pthread_join(threads[i], NULL);
}

enum m2_err m2_cpu_load_weights(struct m2_model *model, const struct m2_weight_source *source,
	const struct m2_load_options *options, const struct m2_cpu_loading *loading,
	struct m2_why *why)
{
	struct loading l = {
		.model = model,
		.source = source,
		.options = options,
		.cut = *loading,
		.next = {.layer = -1},
	};
	assert(l.cut.threads >= 1 && l.cut.threads <= MOST_THREADS);
	assert(l.cut.buffer >= LEAST_BUFFER && l.cut.buffer % M2_CPU_ALIGN == 0);
	assert(l.cut.piece <= l.cut.buffer);
	if (pthread_mutex_init(&l.lock, NULL) != 0)
		return m2_fail(M2_ENOMEM, why, "no lock for a load");
	run(&l);
	(void)pthread_mutex_destroy(&l.lock);
	if (l.err != M2_OK && why != NULL)
		*why = l.why;
	if (l.err == M2_OK && options->progress != NULL) /* alignment is done too */
		options->progress(
			options->progress_ctx, model->footprint.weights, model->footprint.weights);
	return l.err;
}
