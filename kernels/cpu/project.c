/* project.c - products of large matrices, shared by the threads panel by panel. */
#include "kernels/cpu/project.h"

#include "kernels/cpu/share.h"

enum {
	MANY = 48,             /* tokens from which on arithmetic is the limit */
	BLOCK_BYTES = 1 << 20, /* of inputs that stay in the second cache beside a panel */
	AHEAD = 2048,          /* bytes that weights are asked for before they are needed */
	START = 16 << 10,      /* bytes of the next product that are asked for before a barrier */
};

/* How a product is cut: part i is panel i % panels for the tokens of block i / panels. */
struct cut {
	const struct m2_matrix *matrix;
	const struct m2_matrix *more;
	int32_t panels; /* of both */
	int32_t blocks;
	int32_t block; /* tokens of one: whole tiles */
	bool widen;
};

/* Some panels for some tokens. */
struct part {
	const struct m2_matrix *matrix;
	int32_t panel; /* in the matrix */
	int32_t row;   /* of the result */
	int32_t token; /* the first, and the end */
	int32_t end;
};

static struct cut cut_of(const struct m2_model *m, int32_t thread, const struct m2_matrix *matrix,
	const struct m2_matrix *more, const struct m2_cpu_tiles *tiles)
{
	struct cut cut = {.matrix = matrix, .more = more, .blocks = 1, .block = tiles->tokens};
	cut.panels = (int32_t)m2_matrix_panels(matrix);
	if (more != NULL)
		cut.panels += (int32_t)m2_matrix_panels(more);
	if (tiles->tokens < MANY)
		return cut;
	const int64_t tile_bytes = (int64_t)tiles->size * matrix->cols * (int64_t)sizeof(float);
	const int64_t fit = BLOCK_BYTES / tile_bytes, most = fit < 4 ? 4 : fit;
	const int64_t n = (tiles->tokens + tiles->size - 1) / tiles->size;
	cut.blocks = (int32_t)((n + most - 1) / most);
	cut.block = (int32_t)((n + cut.blocks - 1) / cut.blocks) * tiles->size;
	cut.blocks = (tiles->tokens + cut.block - 1) / cut.block;
	cut.widen = m->threads[thread].wide != NULL;
	return cut;
}

static struct part part_of(const struct cut *cut, const struct m2_cpu_tiles *tiles, int32_t i)
{
	const int32_t panel = i % cut->panels, own = (int32_t)m2_matrix_panels(cut->matrix);
	struct part p = {.matrix = cut->matrix, .panel = panel, .row = panel * M2_PANEL};
	if (panel >= own) {
		p.matrix = cut->more;
		p.panel = panel - own;
		p.row = cut->matrix->rows + p.panel * M2_PANEL;
	}
	p.token = i / cut->panels * cut->block;
	p.end = tiles->tokens - p.token < cut->block ? tiles->tokens : p.token + cut->block;
	return p;
}

/* The row scales of 8-bit weights, which the products leave out. */
static void scale_tile(const struct part *p, int32_t panels, int32_t tokens, float *tile)
{
	for (int32_t j = 0; j < panels; j++) {
		const float *scales =
			(const float *)(const void *)m2_matrix_panel(p->matrix, p->panel + j);
		for (int32_t t = 0; t < tokens; t++)
			for (int32_t r = 0; r < M2_PANEL; r++)
				tile[t * M2_TILE_ROWS + j * M2_PANEL + r] *= scales[r];
	}
}

/* The panels of a part by all its tokens, tile after tile; meanwhile `next` is asked for. */
static void run_part(struct m2_model *m, int32_t thread, const struct part *part, int32_t panels,
	const struct part *next, const struct cut *cut, const struct m2_cpu_tiles *tiles,
	const struct m2_cpu_layer *layer, m2_cpu_sink *sink)
{
	const struct m2_matrix *matrix = part->matrix;
	struct m2_cpu_thread *own = &m->threads[thread];
	const size_t cols = (size_t)matrix->cols, bytes = m2_dtype_bytes(matrix->dtype);
	const size_t n_tiles = (size_t)((part->end - part->token + tiles->size - 1) / tiles->size);
	const float *packed = m2_cpu_packed(m, tiles, thread);
	const int32_t left = matrix->rows - part->panel * M2_PANEL;
	struct m2_product p = {
		.dtype = matrix->dtype,
		.panels = m2_matrix_columns(matrix, part->panel),
		.n_panels = panels,
		.panel_bytes = m2_matrix_panel_bytes(matrix),
		.cols = cols,
		.out = own->tile,
		.ask_step = M2_PANEL * bytes / n_tiles,
	};
	const char *ask = (const char *)p.panels + AHEAD;
	if (n_tiles > 1)
		ask = m2_matrix_panel(next->matrix, next->panel);
	if (cut->widen) {
		m->device->kernels->widen(own->wide, matrix->dtype, p.panels, cols);
		p.panels = own->wide;
		p.dtype = M2_DTYPE_F32;
	}
	for (int32_t t = part->token; t < part->end; t += tiles->size) {
		p.tokens = part->end - t < tiles->size ? part->end - t : tiles->size;
		p.x = packed + (size_t)t * cols;
		p.ask = ask;
		m->device->kernels->product(&p);
		if (matrix->dtype == M2_DTYPE_INT8)
			scale_tile(part, panels, p.tokens, own->tile);
		sink(m, layer, part->row, left < panels * M2_PANEL ? left : panels * M2_PANEL, t,
			p.tokens, own->tile);
		ask += p.ask_step * cols;
	}
}

void m2_cpu_project(struct m2_model *m, int32_t thread, const struct m2_matrix *matrix,
	const struct m2_matrix *more, const struct m2_cpu_tiles *tiles,
	const struct m2_cpu_layer *layer, m2_cpu_sink *sink)
{
	const struct cut cut = cut_of(m, thread, matrix, more, tiles);
	const int32_t total = cut.panels * cut.blocks;
	struct m2_cpu_taking taking =
		m2_cpu_begin(m, thread, total, cut.widen ? 1 : M2_TILE_PANELS);
	int32_t first, end;
	while (m2_cpu_take(m, thread, &taking, &first, &end)) {
		const struct part next = part_of(&cut, tiles, end < total ? end : first);
		for (int32_t i = first; i < end;) {
			const struct part part = part_of(&cut, tiles, i);
			int32_t n = end - i;
			/* one run of memory, and of rows, at a time */
			if (i + 1 < end) {
				const struct part other = part_of(&cut, tiles, i + 1);
				if (other.matrix != part.matrix || other.token != part.token)
					n = 1;
			}
			run_part(m, thread, &part, n, &next, &cut, tiles, layer, sink);
			i += n;
		}
	}
}

void m2_cpu_ask(const struct m2_model *m, int32_t thread, const struct m2_matrix *matrix,
	const struct m2_cpu_tiles *tiles)
{
	int32_t first, end;
	if (tiles->tokens >= MANY)
		return;
	m2_cpu_share(m, thread, (int64_t)m2_matrix_panels(matrix), &first, &end);
	const char *at = m2_matrix_panel(matrix, first);
	for (size_t i = 0; i < START; i += M2_CPU_ALIGN)
		__builtin_prefetch(at + i, 0, 2);
}
