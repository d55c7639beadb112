/* sha256.c - SHA-256 by libcrypto's EVP: the algorithm is fetched once, then every digest is three calls. */
#include "registry/sha256.h"

#include <pthread.h>
#include <stdlib.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_MD *algorithm; /* kept for the life of the process */

/* No clean-up at exit: a process may end while a thread of it still hashes. */
static void fetch(void)
{
	(void)OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
	algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
}

struct m2_sha256 {
	EVP_MD_CTX *context;
};

struct m2_sha256 *m2_sha256_create(void)
{
	(void)pthread_once(&once, fetch);
	struct m2_sha256 *s = calloc(1, sizeof *s);
	if (s == NULL || algorithm == NULL || (s->context = EVP_MD_CTX_new()) == NULL ||
		EVP_DigestInit_ex2(s->context, algorithm, NULL) != 1)
		m2_sha256_destroy(&s);
	return s;
}

void m2_sha256_destroy(struct m2_sha256 **stream)
{
	struct m2_sha256 *s = *stream;
	*stream = NULL;
	if (s == NULL)
		return;
	EVP_MD_CTX_free(s->context);
	free(s);
}

bool m2_sha256_update(struct m2_sha256 *stream, const void *data, size_t length)
{
	return length == 0 || EVP_DigestUpdate(stream->context, data, length) == 1;
}

bool m2_sha256_end(struct m2_sha256 *stream, char hex[M2_SHA256_HEX])
{
	static const char digits[] = "0123456789abcdef";
	unsigned char digest[M2_SHA256_BYTES];
	unsigned int length = 0;
	hex[0] = '\0';
	if (EVP_DigestFinal_ex(stream->context, digest, &length) != 1 || length != sizeof digest)
		return false;
	for (size_t i = 0; i < sizeof digest; i++) {
		hex[2 * i] = digits[digest[i] >> 4];
		hex[2 * i + 1] = digits[digest[i] & 15];
	}
	hex[2 * sizeof digest] = '\0';
	return EVP_DigestInit_ex2(stream->context, algorithm, NULL) == 1;
}

bool m2_sha256_hex(const void *data, size_t length, char hex[M2_SHA256_HEX])
{
	struct m2_sha256 *s = m2_sha256_create();
	hex[0] = '\0';
	const bool done = s != NULL && m2_sha256_update(s, data, length) && m2_sha256_end(s, hex);
	m2_sha256_destroy(&s);
	if (!done)
		hex[0] = '\0';
	return done;
}
