/* hello.c - the smallest client: continue a prompt and print the text as it comes.
 *
 *	cc hello.c $(pkg-config --cflags --libs mamba2) -o hello && ./hello demo 'In the beginning'
 */
#include <stdio.h>
#include <string.h>

#include <mamba2.h>

int main(int argc, char **argv)
{
	mamba2 *m = NULL;
	mamba2_request *r = NULL;
	mamba2_generate_options o;
	size_t printed = 0;
	mamba2_generate_options_init(&o);
	o.model = argc > 1 ? argv[1] : "demo";
	o.prompt = argc > 2 ? argv[2] : "In the beginning";
	o.prompt_bytes = strlen(o.prompt);
	o.max_tokens = 100;
	enum mamba2_error error = mamba2_connect(NULL, &m);
	if (error == MAMBA2_OK)
		error = mamba2_generate(m, &o, &r);
	for (int finished = 0; error == MAMBA2_OK && !finished;) {
		size_t bytes;
		error = mamba2_request_wait(r, -1);
		finished = mamba2_request_finished(r); /* asked first: then the text is complete */
		const char *text = mamba2_request_text(r, 0, &bytes);
		if (text != NULL)
			(void)fwrite(text + printed, 1, bytes - printed, stdout);
		(void)fflush(stdout);
		printed = bytes;
	}
	if (error == MAMBA2_OK)
		error = mamba2_request_result(r, NULL);
	if (error != MAMBA2_OK)
		(void)fprintf(
			stderr, "\nhello: %s (%s)\n", mamba2_message(m), mamba2_error_code(error));
	mamba2_request_free(&r);
	mamba2_close(&m);
	return error == MAMBA2_OK ? 0 : 1;
}
