/* fake_gate.h - a daemon of a few lines for the tests of the client library: a ROUTER in a thread that
 * answers by the protocol and makes real results memory.
 *
 * What it does with a generate or score depends on the model's name:
 *   demo      accepts, publishes everything at once, finishes
 *   slow      accepts, publishes one token, runs until cancelled or fake_gate_finish
 *   refuse    says busy, naming the field "model"
 *   lost      never answers the first time a key comes; then like demo
 *   garbage   several answers that must be ignored, then like demo
 *   outside link offsets length missing relative    accepts with results memory that must be refused
 *   result    answers with an event that a generate cannot have
 * It keeps its requests over fake_gate_stop and fake_gate_start, as the supervisor does.
 * Included by test programs only; every function is static.
 */
#ifndef M2_TESTS_FAKE_GATE_H
#define M2_TESTS_FAKE_GATE_H

#include <assert.h>
#include <fcntl.h>
#include <ftw.h>
#include <json-c/json.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "common/results.h"
#include "common/wire.h"

/* libzmq is not built with the thread sanitizer, which therefore does not see how its threads hand over. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:libzmq.so\n";
}

enum { FAKE_REQUESTS = 256, FAKE_VOCAB = 16, FAKE_TOKENS = 8 };

struct fake_request {
	char key[64];
	char model[80];
	uint64_t id; /* the client's */
	int seen;    /* how often its key came */
	char path[512];
	size_t bytes;
	struct m2_results_header *segment; /* our writable mapping, NULL: none */
	bool finished;
	char identity[256];
	size_t identity_bytes;
};

struct fake_gate {
	char dir[256];
	char endpoint[300];
	void *zmq;
	pthread_t thread;
	int stop_pipe[2];
	pthread_mutex_t lock; /* guards everything below */
	pthread_cond_t changed;
	struct fake_request requests[FAKE_REQUESTS];
	int n_requests;
	int count[M2_OP_COUNT];
	bool forgetful;   /* attach: unknown */
	char last[65537]; /* header of the last request */
	char last_payload[4096];
	size_t last_payload_bytes;
};

static void fake_send(void *router, const struct fake_request *r, const char *header,
	const void *payload, size_t bytes)
{
	(void)zmq_send(router, r->identity, r->identity_bytes, ZMQ_SNDMORE);
	(void)zmq_send(router, header, strlen(header), payload != NULL ? ZMQ_SNDMORE : 0);
	if (payload != NULL)
		(void)zmq_send(router, payload, bytes, 0);
}

/* {"id","key","event" and `rest` */
static void fake_answer(
	void *router, const struct fake_request *r, const char *event, const char *rest)
{
	char text[2048];
	(void)snprintf(text, sizeof text, "{\"id\":%llu,\"key\":\"%s\",\"event\":\"%s\"%s}",
		(unsigned long long)r->id, r->key, event, rest);
	fake_send(router, r, text, NULL, 0);
}

static void fake_make_segment(struct fake_gate *g, struct fake_request *r, int number, bool score)
{
	const struct m2_results_shape shape = {.request = (uint64_t)number + 1,
		.n_sequences = score ? 0 : 1,
		.prompt_tokens = 4,
		.max_tokens = FAKE_TOKENS,
		.vocab = FAKE_VOCAB,
		.top_k = 2,
		.flags = M2_RESULTS_TEXT | M2_RESULTS_LOGPROBS | M2_RESULTS_LOGITS |
			 (score ? M2_RESULTS_PROMPT_LOGPROBS | M2_RESULTS_PROMPT_LOGITS : 0),
		.text_per_token = 8};
	struct m2_why why;
	assert(m2_results_size(&shape, &r->bytes, &why) == M2_OK);
	(void)snprintf(r->path, sizeof r->path, "%s/results/m%d", g->dir, number);
	const int fd = open(r->path, O_RDWR | O_CREAT | O_EXCL, 0600);
	assert(fd >= 0 && ftruncate(fd, (off_t)r->bytes) == 0);
	r->segment = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert(r->segment != MAP_FAILED);
	(void)close(fd);
	m2_results_format(r->segment, r->bytes, &shape);
	r->segment->received_ns = 1000;
}

static void fake_publish(struct fake_request *r, uint32_t count)
{
	struct m2_results_header *h = r->segment;
	if (h->n_sequences == 0) {
		int32_t *ids = (int32_t *)((char *)h + h->prompt_ids);
		float *logprobs = (float *)((char *)h + h->prompt_logprobs);
		float *logits = (float *)((char *)h + h->prompt_logits);
		for (uint32_t i = 0; i < h->prompt_tokens; i++) {
			ids[i] = (int32_t)i + 1;
			logprobs[i] = -(float)i;
			logits[i * FAKE_VOCAB] = (float)i;
		}
		atomic_store_explicit(&h->prompt_published, h->prompt_tokens, memory_order_release);
		m2_results_ring(h);
		return;
	}
	struct m2_results_sequence *q = m2_results_sequence(h, 0);
	const uint32_t first = atomic_load(&q->published);
	for (uint32_t i = first; i < first + count && i < h->max_tokens; i++) {
		((int32_t *)((char *)h + q->tokens))[i] = (int32_t)(100 + i);
		((float *)((char *)h + q->logprobs))[i] = -0.5f;
		memcpy((char *)h + q->text + 2 * i, "ab", 2);
		((uint32_t *)((char *)h + q->text_end))[i] = 2 * i + 2;
		atomic_store_explicit(&q->text_published, 2 * i + 2, memory_order_release);
		atomic_store_explicit(&q->published, i + 1, memory_order_release);
	}
	m2_results_ring(h);
}

/* The end of one request: memory first, then the closing message. */
static void fake_finish(
	void *router, struct fake_request *r, enum m2_finish finish, enum m2_err err)
{
	if (r->finished)
		return;
	r->finished = true;
	if (r->segment->n_sequences > 0)
		atomic_store(&m2_results_sequence(r->segment, 0)->finish, (uint32_t)finish);
	m2_results_finish(r->segment, err, err == M2_OK ? "" : "ended by the test", 9000);
	if (router != NULL)
		fake_answer(router, r, "finished", ",\"sequences\":[]");
}

static void fake_accept(void *router, struct fake_request *r, const char *path, size_t bytes)
{
	char rest[1024];
	(void)snprintf(rest, sizeof rest, ",\"request\":%llu,\"segment\":\"%s\",\"bytes\":%zu",
		(unsigned long long)r->segment->request, path, bytes);
	fake_answer(router, r, "accepted", rest);
}

static void fake_garbage(void *router, const struct fake_request *r)
{
	const struct fake_request other = *r;
	fake_send(router, r, "", NULL, 0);
	fake_send(router, r, "not json", NULL, 0);
	fake_send(router, r, "[1,2,3]", NULL, 0);
	fake_send(router, r, "{\"id\":\"one\",\"key\":7}", NULL, 0);
	fake_send(router, r, "{\"event\":\"error\",\"error\":{\"code\":\"io\"}}", NULL, 0);
	struct fake_request wrong = other;
	wrong.id += 1000;
	fake_answer(router, &wrong, "error", ",\"error\":{\"code\":\"io\",\"message\":\"x\"}");
	wrong = other;
	wrong.key[0] = wrong.key[0] == '0' ? '1' : '0';
	fake_answer(router, &wrong, "error", ",\"error\":{\"code\":\"io\",\"message\":\"x\"}");
	/* three frames */
	(void)zmq_send(router, r->identity, r->identity_bytes, ZMQ_SNDMORE);
	(void)zmq_send(router, "{}", 2, ZMQ_SNDMORE);
	(void)zmq_send(router, "{}", 2, ZMQ_SNDMORE);
	(void)zmq_send(router, "{}", 2, 0);
}

static void fake_generate(struct fake_gate *g, void *router, struct fake_request *r, bool score)
{
	const char *model = r->model;
	char path[600];
	if (strcmp(model, "refuse") == 0) {
		fake_answer(router, r, "error",
			",\"error\":{\"code\":\"busy\",\"number\":5,\"field\":\"model\","
			"\"message\":\"the queue is full\"}");
		return;
	}
	if (strcmp(model, "result") == 0) {
		fake_answer(router, r, "result", "");
		return;
	}
	if (strcmp(model, "lost") == 0 && r->seen == 1)
		return;
	if (strcmp(model, "garbage") == 0)
		fake_garbage(router, r);
	if (r->segment == NULL)
		fake_make_segment(g, r, (int)(r - g->requests), score);
	(void)snprintf(path, sizeof path, "%s", r->path);
	size_t bytes = r->bytes;
	if (strcmp(model, "outside") == 0) {
		(void)snprintf(path, sizeof path, "%s/outside", g->dir);
		assert(rename(r->path, path) == 0);
	} else if (strcmp(model, "link") == 0) {
		char target[300];
		(void)snprintf(target, sizeof target, "%s/target", g->dir);
		assert(rename(r->path, target) == 0 && symlink(target, r->path) == 0);
	} else if (strcmp(model, "offsets") == 0) {
		m2_results_sequence(r->segment, 0)->text = r->bytes - 64;
	} else if (strcmp(model, "length") == 0) {
		bytes -= 64;
	} else if (strcmp(model, "missing") == 0) {
		assert(unlink(r->path) == 0);
	} else if (strcmp(model, "relative") == 0) {
		(void)snprintf(path, sizeof path, "%s/results/../results/x/../m", g->dir);
	}
	fake_accept(router, r, path, bytes);
	if (strcmp(model, "slow") == 0) {
		if (r->seen == 1)
			fake_publish(r, 1);
	} else {
		fake_publish(r, FAKE_TOKENS);
		fake_finish(router, r, M2_FINISH_LENGTH, M2_OK);
	}
}

static struct fake_request *fake_by_key(struct fake_gate *g, const char *key)
{
	for (int i = 0; i < g->n_requests; i++)
		if (strcmp(g->requests[i].key, key) == 0)
			return &g->requests[i];
	return NULL;
}

static const char *fake_text(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_string(value) : "";
}

static struct fake_request *fake_about(struct fake_gate *g, struct json_object *o)
{
	struct json_object *value;
	if (json_object_object_get_ex(o, "request", &value)) {
		const int64_t n = json_object_get_int64(value);
		return n >= 1 && n <= g->n_requests ? &g->requests[n - 1] : NULL;
	}
	return fake_by_key(g, fake_text(o, "target"));
}

static void fake_serve_other(struct fake_gate *g, void *router, enum m2_op op,
	const struct fake_request *from, struct json_object *o)
{
	struct fake_request *about = fake_about(g, o);
	switch (op) {
	case M2_OP_CANCEL:
		if (about != NULL && about->segment != NULL)
			fake_finish(router, about, M2_FINISH_CANCELLED, M2_OK);
		fake_answer(router, from, "result", "");
		break;
	case M2_OP_RELEASE:
		if (about != NULL && about->segment != NULL) {
			(void)unlink(about->path);
			(void)munmap(about->segment, about->bytes);
			about->segment = NULL;
		}
		fake_answer(router, from, "result", "");
		break;
	case M2_OP_ATTACH:
		if (about != NULL && !g->forgetful) { /* answers go to the new connection */
			memcpy(about->identity, from->identity, sizeof about->identity);
			about->identity_bytes = from->identity_bytes;
		}
		fake_answer(router, from, "result",
			about == NULL || g->forgetful ? ",\"state\":\"unknown\""
						      : ",\"state\":\"running\"");
		break;
	case M2_OP_LOAD:
		fake_answer(
			router, from, "progress", ",\"done\":5,\"total\":10,\"what\":\"weights\"");
		fake_answer(router, from, "result", ",\"name\":\"demo\"");
		break;
	case M2_OP_TOKENIZE: {
		char header[256];
		(void)snprintf(header, sizeof header,
			"{\"id\":%llu,\"key\":\"%s\",\"event\":\"result\"}",
			(unsigned long long)from->id, from->key);
		fake_send(router, from, header, "\1\0\0\0\2\0\0\0", 8);
		break;
	}
	default:
		fake_answer(router, from, "result", ",\"variants\":[]");
		break;
	}
}

static void fake_take(struct fake_gate *g, void *router, struct fake_request *from,
	const char *header, size_t bytes)
{
	char text[65537];
	assert(bytes < sizeof text);
	memcpy(text, header, bytes);
	text[bytes] = '\0';
	memcpy(g->last, text, bytes + 1);
	struct json_object *o = json_tokener_parse(text);
	assert(o != NULL);
	const enum m2_op op = m2_op_from_name(fake_text(o, "op"));
	struct json_object *id;
	(void)json_object_object_get_ex(o, "id", &id);
	from->id = (uint64_t)json_object_get_int64(id);
	(void)snprintf(from->key, sizeof from->key, "%s", fake_text(o, "key"));
	(void)snprintf(from->model, sizeof from->model, "%s", fake_text(o, "model"));
	g->count[op]++;
	if (op == M2_OP_GENERATE || op == M2_OP_SCORE) {
		struct fake_request *r = fake_by_key(g, from->key);
		if (r == NULL) {
			assert(g->n_requests < FAKE_REQUESTS);
			r = &g->requests[g->n_requests++];
			*r = *from;
		}
		r->seen++;
		memcpy(r->identity, from->identity, sizeof r->identity);
		r->identity_bytes = from->identity_bytes;
		fake_generate(g, router, r, op == M2_OP_SCORE);
	} else {
		fake_serve_other(g, router, op, from, o);
	}
	json_object_put(o);
	pthread_cond_broadcast(&g->changed);
}

static void fake_receive(struct fake_gate *g, void *router)
{
	static struct fake_request nobody;
	char header[65537];
	struct fake_request from = nobody;
	const int n = zmq_recv(router, from.identity, sizeof from.identity, 0);
	const int bytes = zmq_recv(router, header, sizeof header - 1, 0);
	int more = 0;
	size_t size = sizeof more;
	assert(n > 0 && bytes >= 0);
	from.identity_bytes = (size_t)n;
	pthread_mutex_lock(&g->lock);
	(void)zmq_getsockopt(router, ZMQ_RCVMORE, &more, &size);
	g->last_payload_bytes = 0;
	if (more) {
		const int got = zmq_recv(router, g->last_payload, sizeof g->last_payload, 0);
		g->last_payload_bytes = got < 0 ? 0 : (size_t)got;
	}
	fake_take(g, router, &from, header, (size_t)bytes);
	pthread_mutex_unlock(&g->lock);
}

static void *fake_main(void *gate)
{
	struct fake_gate *g = gate;
	void *router = zmq_socket(g->zmq, ZMQ_ROUTER);
	int zero = 0;
	(void)zmq_setsockopt(router, ZMQ_LINGER, &zero, sizeof zero);
	const int bound = zmq_bind(router, g->endpoint);
	assert(bound == 0);
	for (;;) {
		zmq_pollitem_t items[2] = {{.socket = router, .events = ZMQ_POLLIN},
			{.fd = g->stop_pipe[0], .events = ZMQ_POLLIN}};
		(void)zmq_poll(items, 2, -1);
		if (items[1].revents != 0) {
			char command;
			assert(read(g->stop_pipe[0], &command, 1) == 1);
			if (command == 's')
				break;
			pthread_mutex_lock(&g->lock); /* 'f': finish everything */
			for (int i = 0; i < g->n_requests; i++)
				if (g->requests[i].segment != NULL)
					fake_finish(
						router, &g->requests[i], M2_FINISH_LENGTH, M2_OK);
			pthread_mutex_unlock(&g->lock);
		}
		if (items[0].revents != 0)
			fake_receive(g, router);
	}
	(void)zmq_close(router);
	return NULL;
}

static void fake_gate_start(struct fake_gate *g)
{
	g->zmq = zmq_ctx_new();
	assert(g->zmq != NULL && pipe(g->stop_pipe) == 0);
	assert(pthread_create(&g->thread, NULL, fake_main, g) == 0);
}

static void fake_gate_command(struct fake_gate *g, char command)
{
	assert(write(g->stop_pipe[1], &command, 1) == 1);
}

static void fake_gate_stop(struct fake_gate *g)
{
	fake_gate_command(g, 's');
	(void)pthread_join(g->thread, NULL);
	(void)zmq_ctx_term(g->zmq);
	(void)close(g->stop_pipe[0]);
	(void)close(g->stop_pipe[1]);
}

static struct fake_gate *fake_gate_create(void)
{
	struct fake_gate *g = calloc(1, sizeof *g);
	char path[300];
	const char *tmp = getenv("TMPDIR");
	assert(g != NULL);
	(void)snprintf(g->dir, sizeof g->dir, "%s/m2client.XXXXXX", tmp != NULL ? tmp : "/tmp");
	assert(mkdtemp(g->dir) != NULL);
	(void)snprintf(path, sizeof path, "%s/results", g->dir);
	assert(mkdir(path, 0700) == 0);
	(void)snprintf(g->endpoint, sizeof g->endpoint, "ipc://%s/client.sock", g->dir);
	assert(pthread_mutex_init(&g->lock, NULL) == 0 &&
		pthread_cond_init(&g->changed, NULL) == 0);
	fake_gate_start(g);
	return g;
}

static int fake_remove(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

/* running: fake_gate_stop was not called */
static void fake_gate_destroy(struct fake_gate **gate, bool running)
{
	struct fake_gate *g = *gate;
	if (running)
		fake_gate_stop(g);
	for (int i = 0; i < g->n_requests; i++)
		if (g->requests[i].segment != NULL)
			(void)munmap(g->requests[i].segment, g->requests[i].bytes);
	(void)nftw(g->dir, fake_remove, 8, FTW_DEPTH | FTW_PHYS);
	(void)pthread_cond_destroy(&g->changed);
	(void)pthread_mutex_destroy(&g->lock);
	free(g);
	*gate = NULL;
}

/* Wait (at most ten seconds) until an op came `count` times; false when it did not. */
static bool fake_gate_await(struct fake_gate *g, enum m2_op op, int count)
{
	struct timespec until;
	bool in_time = true;
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	pthread_mutex_lock(&g->lock);
	while (g->count[op] < count && in_time)
		in_time = pthread_cond_timedwait(&g->changed, &g->lock, &until) == 0;
	const bool came = g->count[op] >= count;
	pthread_mutex_unlock(&g->lock);
	return came;
}

/* Is `part` in the header of the last request? */
static inline bool fake_gate_last_has(struct fake_gate *g, const char *part)
{
	pthread_mutex_lock(&g->lock);
	const bool has = strstr(g->last, part) != NULL;
	pthread_mutex_unlock(&g->lock);
	return has;
}

/* How many requests of this op came. */
static inline int fake_gate_count(struct fake_gate *g, enum m2_op op)
{
	pthread_mutex_lock(&g->lock);
	const int count = g->count[op];
	pthread_mutex_unlock(&g->lock);
	return count;
}

#endif
