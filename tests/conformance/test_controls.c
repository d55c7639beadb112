/* test_controls.c - the stored cases can tell right from wrong.
 *
 * A conformance test proves only what its cases can see: with one group, tiled and blocked groups are
 * the same model.  So a second, independent forward pass (float64, one token at a time, nothing shared
 * with kernels/) is run right, which must pass every case, and with each of the mistakes that other
 * implementations make, which must fail a named case by a wide margin.
 * Maths: Dao & Gu 2024 (arXiv 2405.21060), section 7, in recurrent form.
 */
#include "tests/conformance/cases.h"

enum mistake {
	NO_MISTAKE,
	UNGROUPED_NORM,
	TILED_GROUPS,
	GATE_ON_THE_WRONG_SIDE,
	NO_CLAMP_IN_DECODE,
	D_TIMES_DT_X,
};

/* A hundred times the tolerance is no rounding. */
#define WIDE_MARGIN (100 * CASE_TOLERANCE)

/* Weights and states as doubles; everything of one case. */
struct pass {
	const struct m2_model_desc *m;
	enum mistake mistake;
	double *weights[1 + 8][M2_W_COUNT]; /* [layer + 1]; cases have at most 8 layers */
	double *conv;                       /* [L, K-1, C] */
	double *ssm;                        /* [L, H, P, N] */
	double *residual;                   /* [d] */
	double *normed;                     /* [d] */
	double *in;                         /* [R] */
	double *mixed;                      /* [C] after the convolution */
	double *out;                        /* [M + Ds] */
};

static double *doubles(size_t n)
{
	double *p = calloc(n + 1, sizeof *p);
	assert_non_null(p);
	return p;
}

static double *widen(struct case_data *c, int layer, enum m2_weight which)
{
	const struct m2_weight_source s = m2_checkpoint_source(c->checkpoint);
	struct m2_why why = {.text = ""};
	const enum m2_dtype dtype = s.dtype(s.ctx, layer, which);
	if (dtype == M2_DTYPE_NONE)
		return NULL;
	const size_t n = m2_weight_elements(c->desc, which);
	void *raw = malloc(n * m2_dtype_bytes(dtype));
	float *narrow = malloc(n * sizeof *narrow);
	double *wide = doubles(n);
	assert_true(raw != NULL && narrow != NULL);
	if (s.read(s.ctx, layer, which, 0, n, raw, &why) != M2_OK)
		fail_msg("%s: %s", c->words, why.text);
	m2_dtype_to_f32(narrow, raw, dtype, n);
	for (size_t i = 0; i < n; i++)
		wide[i] = (double)narrow[i];
	free(raw);
	free(narrow);
	return wide;
}

static void pass_init(struct pass *p, struct case_data *c, enum mistake mistake)
{
	const struct m2_model_desc *m = c->desc;
	*p = (struct pass){.m = m, .mistake = mistake};
	assert_true(m->n_layers <= 8 && m->conv_kernel >= 2);
	for (int layer = -1; layer < m->n_layers; layer++)
		for (int w = 0; w < M2_W_COUNT; w++)
			if ((layer < 0) == (w <= M2_W_HEAD))
				p->weights[layer + 1][w] = widen(c, layer, (enum m2_weight)w);
	p->conv = doubles(case_conv_size(m));
	p->ssm = doubles(case_ssm_size(m));
	p->residual = doubles((size_t)m->hidden_size);
	p->normed = doubles((size_t)m->hidden_size);
	p->in = doubles((size_t)m2_desc_in_rows(m));
	p->mixed = doubles((size_t)m2_desc_conv_channels(m));
	p->out = doubles((size_t)m2_desc_out_cols(m));
}

static void pass_finish(struct pass *p)
{
	for (int i = 0; i < 9; i++)
		for (int w = 0; w < M2_W_COUNT; w++)
			free(p->weights[i][w]);
	free(p->conv);
	free(p->ssm);
	free(p->residual);
	free(p->normed);
	free(p->in);
	free(p->mixed);
	free(p->out);
}

static double silu(double x)
{
	return x / (1.0 + exp(-x));
}

static double dot(const double *a, const double *b, int n)
{
	double sum = 0.0;
	for (int i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

/* Root-mean-square norm over each of `groups` equal parts, times the weight. */
static void norm(double *out, const double *x, const double *weight, int n, int groups, double eps)
{
	const int part = n / groups;
	for (int g = 0; g < groups; g++) {
		const double *from = x + g * part;
		const double scale = 1.0 / sqrt(dot(from, from, part) / part + eps);
		for (int i = 0; i < part; i++)
			out[g * part + i] = from[i] * scale * weight[g * part + i];
	}
}

/* The newest column is in `x`; the K-1 older ones in the state, oldest first, which moves on. */
static void convolve(struct pass *p, int layer, const double *x)
{
	const int k = p->m->conv_kernel;
	const int c = m2_desc_conv_channels(p->m);
	const double *weight = p->weights[layer + 1][M2_W_CONV];
	const double *bias = p->weights[layer + 1][M2_W_CONV_BIAS];
	double *state = p->conv + (size_t)layer * (size_t)(k - 1) * (size_t)c;
	for (int i = 0; i < c; i++) {
		double sum = bias != NULL ? bias[i] : 0.0;
		for (int j = 0; j < k - 1; j++)
			sum += weight[i * k + j] * state[j * c + i];
		p->mixed[i] = silu(sum + weight[i * k + k - 1] * x[i]);
	}
	memmove(state, state + c, (size_t)(k - 2) * (size_t)c * sizeof *state);
	memcpy(state + (size_t)(k - 2) * (size_t)c, x, (size_t)c * sizeof *state);
}

static double step_size(const struct pass *p, double raw)
{
	const double dt = raw > 20.0 ? raw : log1p(exp(raw));
	if (p->mistake == NO_CLAMP_IN_DECODE) /* every token here is a decode step */
		return dt;
	return fmin(fmax(dt, (double)p->m->dt_min), (double)p->m->dt_max);
}

/* One head of the recurrence: h = a h + dt x B, y = C h + D x. */
static void recur(struct pass *p, int layer, int head, double dt_raw, double *y)
{
	const struct m2_model_desc *m = p->m;
	const int n = m->state_size;
	const int d_ssm = m2_desc_d_ssm(m);
	const int group =
		p->mistake == TILED_GROUPS ? head % m->n_groups : head / (m->n_heads / m->n_groups);
	const double *b = p->mixed + d_ssm + group * n;
	const double *c = b + m->n_groups * n;
	const double *d = p->weights[layer + 1][M2_W_D];
	const double dt = step_size(p, dt_raw + p->weights[layer + 1][M2_W_DT_BIAS][head]);
	const double decay = exp(-dt * exp(p->weights[layer + 1][M2_W_A_LOG][head]));
	for (int i = 0; i < m->head_dim; i++) {
		const int channel = head * m->head_dim + i;
		const double x = p->mixed[channel];
		double *h = p->ssm + ((size_t)layer * (size_t)d_ssm + (size_t)channel) * (size_t)n;
		for (int k = 0; k < n; k++)
			h[k] = decay * h[k] + dt * x * b[k];
		const double skip_input = p->mistake == D_TIMES_DT_X ? dt * x : x;
		y[channel] = dot(c, h, n) + d[m->d_per_channel ? channel : head] * skip_input;
	}
}

static void gate_and_norm(struct pass *p, int layer, const double *z, double *y)
{
	const struct m2_model_desc *m = p->m;
	const int d_ssm = m2_desc_d_ssm(m);
	const int groups = p->mistake == UNGROUPED_NORM ? 1 : m->norm_groups;
	const double *weight = p->weights[layer + 1][M2_W_GATED_NORM];
	const bool norm_first = m->norm_before_gate != (p->mistake == GATE_ON_THE_WRONG_SIDE);
	const double eps = (double)m->norm_eps;
	if (m->gated_norm && norm_first)
		norm(y, y, weight, d_ssm, groups, eps);
	for (int i = 0; i < d_ssm; i++)
		y[i] *= silu(z[i]);
	if (m->gated_norm && !norm_first)
		norm(y, y, weight, d_ssm, groups, eps);
}

static void mixer(struct pass *p, int layer)
{
	const struct m2_model_desc *m = p->m;
	double *const *w = p->weights[layer + 1];
	const int d = m->hidden_size;
	const int rows = m2_desc_in_rows(m);
	const int cols = m2_desc_out_cols(m);
	const int d_ssm = m2_desc_d_ssm(m);
	const double *z = p->in + 2 * m->d_mlp;
	const double *dt = p->in + rows - m->n_heads;
	for (int i = 0; i < rows; i++)
		p->in[i] = dot(w[M2_W_IN_PROJ] + (size_t)i * (size_t)d, p->normed, d) +
			   (w[M2_W_IN_BIAS] != NULL ? w[M2_W_IN_BIAS][i] : 0.0);
	convolve(p, layer, z + d_ssm);
	for (int i = 0; i < m->d_mlp; i++)
		p->out[i] = silu(p->in[i]) * p->in[m->d_mlp + i];
	for (int head = 0; head < m->n_heads; head++)
		recur(p, layer, head, dt[head], p->out + m->d_mlp);
	gate_and_norm(p, layer, z, p->out + m->d_mlp);
	for (int i = 0; i < d; i++)
		p->residual[i] += dot(w[M2_W_OUT_PROJ] + (size_t)i * (size_t)cols, p->out, cols) +
				  (w[M2_W_OUT_BIAS] != NULL ? w[M2_W_OUT_BIAS][i] : 0.0);
}

static void one_token(struct pass *p, int32_t token, float *logits)
{
	const struct m2_model_desc *m = p->m;
	const int d = m->hidden_size;
	const double eps = (double)m->norm_eps;
	const double *embedding = p->weights[0][M2_W_EMBEDDING];
	const double *head = m->tied_head ? embedding : p->weights[0][M2_W_HEAD];
	memcpy(p->residual, embedding + (size_t)token * (size_t)d, (size_t)d * sizeof *embedding);
	for (int layer = 0; layer < m->n_layers; layer++) {
		norm(p->normed, p->residual, p->weights[layer + 1][M2_W_NORM], d, 1, eps);
		mixer(p, layer);
	}
	norm(p->normed, p->residual, p->weights[0][M2_W_FINAL_NORM], d, 1, eps);
	for (int i = 0; i < m->vocab_rows; i++)
		logits[i] = (float)dot(head + (size_t)i * (size_t)d, p->normed, d);
}

/* What a pass over one case gave. */
struct result {
	double logits; /* relative distances */
	double ssm;
	double conv;
	bool greedy;
};

static double distance_of(const double *a, const float *b, size_t n)
{
	float *narrow = malloc((n + 1) * sizeof *narrow);
	assert_non_null(narrow);
	for (size_t i = 0; i < n; i++)
		narrow[i] = (float)a[i];
	const double distance = relative_l2(narrow, b, n);
	free(narrow);
	return distance;
}

static struct result run(struct case_data *c, enum mistake mistake)
{
	struct pass p;
	struct result r = {.greedy = true};
	const size_t v = (size_t)c->desc->vocab_rows;
	float *stored = malloc((size_t)c->n_rows * v * sizeof *stored);
	float *logits = malloc(v * sizeof *logits);
	float *conv = case_wanted_conv(c);
	assert_true(stored != NULL && logits != NULL);
	pass_init(&p, c, mistake);
	int32_t row = 0;
	for (int32_t t = 0; t < c->n_tokens; t++) {
		one_token(&p, c->tokens[t], logits);
		if (row < c->n_rows && c->positions[row] == t)
			memcpy(stored + (size_t)row++ * v, logits, v * sizeof *logits);
	}
	assert_int_equal(row, c->n_rows);
	r.logits = relative_l2(stored, c->logits, (size_t)c->n_rows * v);
	r.ssm = distance_of(p.ssm, c->ssm, case_ssm_size(c->desc));
	r.conv = distance_of(p.conv, conv, case_conv_size(c->desc));
	for (int32_t i = 0; i < c->n_greedy && r.greedy; i++) {
		const int32_t token = case_argmax(logits, c->desc->vocab_rows);
		r.greedy = token == c->greedy[i];
		one_token(&p, token, logits);
	}
	pass_finish(&p);
	free(stored);
	free(logits);
	free(conv);
	return r;
}

static void the_right_pass_gives_every_case(void **state)
{
	int ran = 0;
	(void)state;
	for (size_t i = 0; i < N_CASES; i++) {
		struct case_data c;
		if (!case_open(&case_names[i], &c))
			continue;
		const struct result r = run(&c, NO_MISTAKE);
		print_message(
			"%s: logits %.1e, ssm %.1e, conv %.1e\n", c.words, r.logits, r.ssm, r.conv);
		assert_true(r.logits < CASE_TOLERANCE);
		assert_true(r.ssm < CASE_TOLERANCE);
		assert_true(r.conv < CASE_TOLERANCE);
		assert_true(r.greedy);
		case_close(&c);
		ran++;
	}
	if (ran == 0)
		skip();
}

/* `mistake` must be seen by the case, clearly. */
static void must_fail(enum mistake mistake, struct case_name name)
{
	struct case_data c;
	if (!case_open(&name, &c))
		skip();
	const struct result r = run(&c, mistake);
	print_message("%s: logits %.1e, ssm %.1e\n", c.words, r.logits, r.ssm);
	assert_true(r.logits > WIDE_MARGIN);
	case_close(&c);
}

static void an_ungrouped_norm_fails(void **state)
{
	(void)state;
	must_fail(UNGROUPED_NORM, (struct case_name){"hf-groups2", "expected.safetensors"});
	must_fail(UNGROUPED_NORM,
		(struct case_name){"fla-groups-normfirst-bias", "expected.safetensors"});
	must_fail(UNGROUPED_NORM, (struct case_name){"odd-sizes", "expected.safetensors"});
}

static void tiled_groups_fail(void **state)
{
	(void)state;
	must_fail(TILED_GROUPS, (struct case_name){"hf-groups2", "expected.safetensors"});
	must_fail(TILED_GROUPS,
		(struct case_name){"fla-groups-normfirst-bias", "expected.safetensors"});
	must_fail(TILED_GROUPS, (struct case_name){"odd-sizes", "expected.safetensors"});
}

static void a_gate_on_the_wrong_side_of_the_norm_fails(void **state)
{
	(void)state;
	must_fail(GATE_ON_THE_WRONG_SIDE, (struct case_name){"fla-base", "expected.safetensors"});
	must_fail(GATE_ON_THE_WRONG_SIDE,
		(struct case_name){"fla-groups-normfirst-bias", "expected.safetensors"});
}

static void a_decode_step_without_the_clamp_fails(void **state)
{
	(void)state;
	must_fail(NO_CLAMP_IN_DECODE,
		(struct case_name){"fla-groups-normfirst-bias", "expected.safetensors"});
}

static void d_applied_to_dt_x_fails(void **state)
{
	(void)state;
	must_fail(D_TIMES_DT_X, (struct case_name){"fla-base", "expected.safetensors"});
	must_fail(D_TIMES_DT_X,
		(struct case_name){"fla-nonorm-noconvbias-tied", "expected.safetensors"});
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_right_pass_gives_every_case),
		cmocka_unit_test(an_ungrouped_norm_fails),
		cmocka_unit_test(tiled_groups_fail),
		cmocka_unit_test(a_gate_on_the_wrong_side_of_the_norm_fails),
		cmocka_unit_test(a_decode_step_without_the_clamp_fails),
		cmocka_unit_test(d_applied_to_dt_x_fails),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
