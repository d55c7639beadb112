/* spawn.c - run mamba2d for what needs its code and no daemon: the client knows no checkpoint formats.
 *
 * No shell, no PATH surprises: the program beside this one is preferred, as kernels/backend.c does with
 * the CUDA backend.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"

enum { OUTPUT_MAX = 1 << 20 };

extern char **environ;

/* `relative` as seen from this program's directory, if it can be run. */
static bool beside(const char *relative, char *path, size_t size)
{
	const ssize_t n = readlink("/proc/self/exe", path, size);
	if (n <= 0 || n >= (ssize_t)size)
		return false;
	path[n] = '\0';
	char *slash = strrchr(path, '/');
	if (slash == NULL)
		return false;
	const size_t room = size - (size_t)(slash + 1 - path);
	const int written = snprintf(slash + 1, room, "%s", relative);
	return written > 0 && (size_t)written < room && access(path, X_OK) == 0;
}

/* Everything that comes out of it; NULL without memory or with more than OUTPUT_MAX bytes. */
static char *read_output(int fd)
{
	size_t bytes = 0;
	char *text = malloc(OUTPUT_MAX + 1);
	while (text != NULL) {
		const ssize_t n = read(fd, text + bytes, OUTPUT_MAX - bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		bytes += (size_t)n;
	}
	if (text != NULL)
		text[bytes] = '\0';
	return text;
}

static int start(char *const *argv, int to, pid_t *pid)
{
	char path[PATH_MAX];
	posix_spawn_file_actions_t actions;
	int error = posix_spawn_file_actions_init(&actions);
	if (error != 0)
		return error;
	if (to >= 0)
		error = posix_spawn_file_actions_adddup2(&actions, to, STDOUT_FILENO);
	if (error != 0)
		;
	else if (beside("mamba2d", path, sizeof path) ||
		 beside("../sbin/mamba2d", path, sizeof path))
		error = posix_spawn(pid, path, &actions, NULL, argv, environ);
	else
		error = posix_spawnp(pid, "mamba2d", &actions, NULL, argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	return error;
}

static int wait_for(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return ctl_say(CTL_FAILED, "waiting for mamba2d: %s (io)", strerror(errno));
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return ctl_say(CTL_FAILED, "mamba2d ended by signal %d (internal)", WTERMSIG(status));
}

int ctl_run_mamba2d(const char *const *arguments, size_t count, char **output)
{
	int ends[2] = {-1, -1};
	pid_t pid;
	char **argv = calloc(count + 2, sizeof *argv);
	if (argv == NULL)
		return ctl_say(CTL_FAILED, "out of memory (no_memory)");
	argv[0] = (char *)(uintptr_t) "mamba2d";
	for (size_t i = 0; i < count; i++)
		argv[i + 1] = (char *)(uintptr_t)arguments[i];
	if (output != NULL && pipe2(ends, O_CLOEXEC) != 0) {
		free(argv);
		return ctl_say(CTL_FAILED, "pipe: %s (io)", strerror(errno));
	}
	(void)fflush(stdout);
	const int error = start(argv, ends[1], &pid);
	free(argv);
	if (ends[1] >= 0)
		(void)close(ends[1]);
	int status;
	if (error != 0) {
		status = ctl_say(CTL_FAILED,
			"mamba2d, which knows checkpoints, cannot be started: %s (it is looked for "
			"beside mamba2ctl, in ../sbin and in PATH) (not_found)",
			strerror(error));
	} else {
		if (output != NULL)
			*output = read_output(ends[0]);
		if (output != NULL && ends[0] >= 0) /* one that still writes is told */
			(void)close(ends[0]);
		ends[0] = -1;
		status = wait_for(pid);
		if (status == CTL_OK && output != NULL && *output == NULL)
			status = ctl_say(CTL_FAILED, "out of memory (no_memory)");
	}
	if (ends[0] >= 0)
		(void)close(ends[0]);
	return status;
}
