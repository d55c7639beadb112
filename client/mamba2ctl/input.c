/* input.c - prompts and files into memory, whole and bounded. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"
#include "common/limits.h"

/* Read to the end of the stream; *text grows.  false: errno, or EFBIG for more than `most`. */
static bool read_all(FILE *in, size_t most, char **text, size_t *bytes)
{
	size_t room = 0;
	*text = NULL;
	*bytes = 0;
	for (;;) {
		if (room - *bytes < 2) {
			room = room == 0 ? 16384 : room * 2;
			char *more = realloc(*text, room);
			if (more == NULL)
				return false;
			*text = more;
		}
		const size_t n = fread(*text + *bytes, 1, room - *bytes - 1, in);
		*bytes += n;
		if (*bytes > most) {
			errno = EFBIG;
			return false;
		}
		if (n == 0)
			break;
	}
	(*text)[*bytes] = '\0';
	return ferror(in) == 0;
}

char *ctl_read_file(const char *path, size_t most, size_t *bytes)
{
	const bool standard = path == NULL || strcmp(path, "-") == 0;
	char *text = NULL;
	FILE *in = standard ? stdin : fopen(path, "rbe");
	if (in == NULL || !read_all(in, most, &text, bytes)) {
		if (in != NULL && errno == EFBIG)
			(void)ctl_say(CTL_FAILED, "%s: more than %zu bytes (limit)",
				standard ? "standard input" : path, most);
		else
			(void)ctl_say(CTL_FAILED, "%s: %s (io)", standard ? "standard input" : path,
				strerror(errno));
		free(text);
		text = NULL;
	}
	if (in != NULL && !standard)
		(void)fclose(in);
	return text;
}

char *ctl_prompt(const char *argument, const char *file, size_t *bytes)
{
	char *text;
	if (argument != NULL && file != NULL) {
		(void)ctl_say(CTL_USAGE, "a text and --file: which of the two?");
		return NULL;
	}
	if (argument != NULL && strcmp(argument, "-") != 0) {
		text = strdup(argument);
		*bytes = strlen(argument);
		if (text == NULL)
			(void)ctl_say(CTL_FAILED, "out of memory (no_memory)");
		return text;
	}
	if (file == NULL && argument == NULL && isatty(STDIN_FILENO))
		(void)fputs("(text from the terminal, end with Ctrl-D)\n", stderr);
	text = ctl_read_file(file, M2_LIMIT_PAYLOAD_BYTES, bytes);
	if (text != NULL && *bytes > 1 && text[*bytes - 1] == '\n')
		text[--*bytes] = '\0';
	return text;
}
