/* errors.c - the public error numbers, their codes, and the calling thread's last sentence.
 *
 * The numbers of mamba2.h are written out there because a public header cannot include errors.def; here
 * the compiler proves that the two agree.
 */
#include "client/errors.h"

#include <stdlib.h>
#include <string.h>

#define M2_ERROR(name, number, code, advice)                                                       \
	_Static_assert((int)MAMBA2_##name == (number), "mamba2.h differs from "                    \
						       "errors.def: " #name);
#include "common/errors.def"
#undef M2_ERROR
_Static_assert((int)MAMBA2_EINTERNAL + 1 == (int)M2_ERR_COUNT, "mamba2.h lacks an error");

static _Thread_local struct m2_why last;

enum mamba2_error m2_client_return(enum m2_err err, const struct m2_why *why)
{
	if (err == M2_OK)
		return MAMBA2_OK;
	if (why != NULL && why->text[0] != '\0')
		last = *why;
	else
		(void)m2_fail(err, &last, "%s", m2_err_advice(err));
	return (enum mamba2_error)err;
}

const char *mamba2_message(const mamba2 *m)
{
	(void)m;
	return last.text;
}

const char *mamba2_message_field(const mamba2 *m)
{
	(void)m;
	return last.field;
}

const char *mamba2_error_code(enum mamba2_error error)
{
	return m2_err_code(m2_err_from_number((long)error));
}

const char *mamba2_version(void)
{
	return M2_VERSION;
}

void mamba2_free(void *p)
{
	free(p);
}
