/* tensor.cuh - the tensor core's instructions, and how its operands come out of shared memory.
 *
 * Private to kernels/cuda.  All of it exists since sm_80.  Lane l of a warp has q = l % 4 and r = l / 4.
 * mma.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type"):
 *
 *   A, 16 x 16   a.x: row r,     columns 2 q, + 1    a.z: row r,     columns 2 q + 8, + 9
 *                a.y: row r + 8, columns 2 q, + 1    a.w: row r + 8, columns 2 q + 8, + 9
 *   B, 16 x 8    b.x: rows 2 q, + 1 of column r      b.y: rows 2 q + 8, + 9 of column r
 *   C, 16 x 8    c[0], c[1]: row r, columns 2 q, + 1; c[2], c[3]: row r + 8, the same columns
 *
 * ldmatrix.x4 (PTX ISA, "ldmatrix") loads four 8 x 8 matrices: lanes 8 i to 8 i + 7 point at the rows of
 * matrix i, 16 bytes each; lane l gets columns 2 q, + 1 of row r of each; with .trans, rows 2 q, + 1 of
 * column r.
 *
 * Tiles in shared memory are rows of `Pieces` pieces of 16 bytes, eight numbers each; a row's pieces are
 * permuted by the row, so that the same piece of eight neighbouring rows lies in all 32 banks.
 */
#ifndef M2_KERNELS_CUDA_TENSOR_CUH
#define M2_KERNELS_CUDA_TENSOR_CUH

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/tensor_asm.cuh"

/* Which 16 bytes of a tile hold piece `piece` of row `row`.  Pieces: 4, 8 or 16. */
template <int Pieces> __device__ inline int32_t piece_of(int32_t row, int32_t piece)
{
	return row * Pieces + (piece ^ (Pieces == 4 ? (row >> 1) & 3 : row & 7));
}

/* A operand, rows [r0, r0 + 16) and columns [16 k, 16 k + 16), of a tile that has the rows. */
template <int Pieces> __device__ inline uint4 load_a(const uint4 *tile, int32_t r0, int32_t k)
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
	return load_matrices(tile + piece_of<Pieces>(r0 + (lane & 15), k * 2 + (lane >> 4)));
}

/* The same of a tile that has the columns: number (m, k) stands in row k, place m. */
template <int Pieces>
__device__ inline uint4 load_a_turned(const uint4 *tile, int32_t m0, int32_t k)
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
	return load_matrices_turned(tile + piece_of<Pieces>(k * 16 + (lane & 7) + (lane >> 4) * 8,
						   m0 / 8 + ((lane >> 3) & 1)));
}

/* B operands of two tiles of columns, n0 and n0 + 8, rows [16 k, 16 k + 16): x, y and z, w.  The tile has
 * the columns: number (k, n) stands in row n, place k. */
template <int Pieces> __device__ inline uint4 load_b(const uint4 *tile, int32_t n0, int32_t k)
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
	return load_matrices(tile + piece_of<Pieces>(n0 + (lane & 7) + (lane >> 4) * 8,
					    k * 2 + ((lane >> 3) & 1)));
}

/* The same of a tile that has the rows: number (k, n) stands in row k, place n. */
template <int Pieces>
__device__ inline uint4 load_b_turned(const uint4 *tile, int32_t n0, int32_t k)
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
	return load_matrices_turned(
		tile + piece_of<Pieces>(k * 16 + (lane & 15), n0 / 8 + (lane >> 4)));
}

/* Lane q of a quad gives v[0..4) and gets what lanes 0..3 had in their v[q]: two numbers of four tiles of
 * columns become eight neighbours of one. */
__device__ inline uint4 turn_quad(uint32_t v0, uint32_t v1, uint32_t v2, uint32_t v3)
{
	const bool odd = (threadIdx.x & 1) != 0, high = (threadIdx.x & 2) != 0;
	const uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? v0 : v1, 1);
	const uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? v2 : v3, 1);
	v0 = odd ? a : v0;
	v1 = odd ? v1 : a;
	v2 = odd ? b : v2;
	v3 = odd ? v3 : b;
	const uint32_t c = __shfl_xor_sync(0xffffffffu, high ? v0 : v2, 2);
	const uint32_t d = __shfl_xor_sync(0xffffffffu, high ? v1 : v3, 2);
	return high ? make_uint4(c, d, v2, v3) : make_uint4(v0, v1, c, d);
}

/* Two numbers in one word, the first in the low half; what a half cannot hold becomes its largest. */
template <typename T> __device__ inline uint32_t pack_two(float a, float b);
template <> __device__ inline uint32_t pack_two<__nv_bfloat16>(float a, float b)
{
	const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
	return *(const uint32_t *)&both;
}
template <> __device__ inline uint32_t pack_two<__half>(float a, float b)
{
	const __half2 both = __floats2half2_rn(
		fminf(fmaxf(a, -65504.0f), 65504.0f), fminf(fmaxf(b, -65504.0f), 65504.0f));
	return *(const uint32_t *)&both;
}

template <typename T> __device__ inline float2 unpack_two(uint32_t both);
template <> __device__ inline float2 unpack_two<__nv_bfloat16>(uint32_t both)
{
	return __bfloat1622float2(*(const __nv_bfloat162 *)&both);
}
template <> __device__ inline float2 unpack_two<__half>(uint32_t both)
{
	return __half22float2(*(const __half2 *)&both);
}

#endif
