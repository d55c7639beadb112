/* vec_product.h - what the products of all instruction sets have in common.
 *
 * The file that includes this defines product_of and widen_of, whose dtype is a constant where they
 * are called, so that each type gets code of its own.  Needs the macros of vec_heads.h.
 */
#ifndef M2_KERNELS_CPU_VEC_PRODUCT_H
#define M2_KERNELS_CPU_VEC_PRODUCT_H

M2_INLINE void product_of(const enum m2_dtype dtype, const struct m2_product *p);
M2_INLINE void widen_of(const enum m2_dtype dtype, float *dst, const unsigned char *w, size_t cols);

/* Bytes of a weight, as a constant. */
M2_INLINE size_t bytes_of(const enum m2_dtype dtype)
{
	return dtype == M2_DTYPE_F32 ? 4 : dtype == M2_DTYPE_INT8 ? 1 : 2;
}

/* The lines of one column: into the first cache if they are needed `soon`, else the second. */
M2_INLINE void ask_for(const enum m2_dtype dtype, const char *at, const bool soon)
{
	M2_UNROLL
	for (size_t line = 0; line < M2_PANEL * bytes_of(dtype); line += 64)
		if (soon)
			__builtin_prefetch(at + line, 0, 3);
		else
			__builtin_prefetch(at + line, 0, 2);
}

static inline void next_panel(struct m2_product *p)
{
	p->panels = (const unsigned char *)p->panels + p->panel_bytes;
	p->ask = (const unsigned char *)p->ask + p->panel_bytes;
	p->out += M2_PANEL;
}

static void product(const struct m2_product *p)
{
	switch (p->dtype) {
	case M2_DTYPE_F32:
		product_of(M2_DTYPE_F32, p);
		break;
	case M2_DTYPE_F16:
		product_of(M2_DTYPE_F16, p);
		break;
	case M2_DTYPE_INT8:
		product_of(M2_DTYPE_INT8, p);
		break;
	default:
		product_of(M2_DTYPE_BF16, p);
	}
}

static void widen(float *dst, enum m2_dtype dtype, const void *panel, size_t cols)
{
	switch (dtype) {
	case M2_DTYPE_F32:
		widen_of(M2_DTYPE_F32, dst, panel, cols);
		break;
	case M2_DTYPE_F16:
		widen_of(M2_DTYPE_F16, dst, panel, cols);
		break;
	case M2_DTYPE_INT8:
		widen_of(M2_DTYPE_INT8, dst, panel, cols);
		break;
	default:
		widen_of(M2_DTYPE_BF16, dst, panel, cols);
	}
}

#endif
