/* processes.c - see processes.h. */
#include "daemon/processes.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"
#include "daemon/sessions.h"

enum { RESERVED = 64 }; /* descriptors that clients' processes do not get */

struct m2_user *m2_user_get(struct m2_supervisor *s, uint32_t uid)
{
	M2_LIST_EACH(&s->users, at)
	{
		struct m2_user *user = M2_LIST_OF(at, struct m2_user, link);
		if (user->uid == uid) {
			user->sessions++;
			return user;
		}
	}
	struct m2_user *user = calloc(1, sizeof *user);
	if (user == NULL)
		return NULL;
	user->uid = uid;
	user->sessions = 1;
	m2_list_append(&s->users, &user->link);
	return user;
}

void m2_user_put(struct m2_user **user)
{
	struct m2_user *u = *user;
	*user = NULL;
	if (u == NULL || --u->sessions > 0)
		return;
	m2_list_remove(&u->link);
	free(u);
}

static void free_process(struct m2_process *p)
{
	const int fd = p->watch.fd;
	m2_loop_remove(&p->s->loop, &p->watch);
	if (fd >= 0)
		(void)close(fd);
	m2_list_remove(&p->link);
	free(p);
}

static void on_process_end(void *ctx, uint32_t events)
{
	struct m2_process *p = ctx;
	(void)events;
	m2_debug("client process %u of uid %u ended", p->pid, p->uid);
	/* a new process may get this number while we work: it must not find this record */
	p->pid = 0;
	const int fd = p->watch.fd;
	m2_loop_remove(&p->s->loop, &p->watch);
	if (fd >= 0)
		(void)close(fd);
	/* the last session to leave frees p: hold the list's end while it empties */
	struct m2_link orphans;
	m2_list_init(&orphans);
	while (!m2_list_empty(&p->sessions)) {
		struct m2_link *at = p->sessions.next;
		M2_LIST_OF(at, struct m2_session, of_process)->process = NULL;
		m2_list_remove(at);
		m2_list_append(&orphans, at);
	}
	free_process(p);
	while (!m2_list_empty(&orphans)) {
		struct m2_link *at = orphans.next;
		m2_list_remove(at);
		m2_session_orphan(M2_LIST_OF(at, struct m2_session, of_process));
	}
}

static struct m2_process *find_process(struct m2_supervisor *s, uint32_t pid, uint32_t uid)
{
	M2_LIST_EACH(&s->processes, at)
	{
		struct m2_process *p = M2_LIST_OF(at, struct m2_process, link);
		if (p->pid == pid && p->uid == uid)
			return p;
	}
	return NULL;
}

static struct m2_process *new_process(struct m2_supervisor *s, uint32_t pid, uint32_t uid, int fd)
{
	struct m2_process *p = calloc(1, sizeof *p);
	if (p == NULL)
		return NULL;
	*p = (struct m2_process){.s = s, .pid = pid, .uid = uid};
	p->watch = (struct m2_watch){.fn = on_process_end, .ctx = p, .fd = -1};
	m2_list_init(&p->sessions);
	if (m2_loop_add(&s->loop, &p->watch, fd, EPOLLIN, NULL) != M2_OK) {
		free(p);
		return NULL;
	}
	m2_list_append(&s->processes, &p->link);
	return p;
}

/* The last descriptors are for children and messages: without those everyone's requests would end. */
static int descriptor_limit(void)
{
	struct rlimit files = {.rlim_cur = 1024};
	(void)getrlimit(RLIMIT_NOFILE, &files);
	const rlim_t kept = files.rlim_cur / 4 < RESERVED ? files.rlim_cur / 4 : RESERVED;
	const rlim_t most = files.rlim_cur - kept;
	return most < INT_MAX ? (int)most : INT_MAX;
}

bool m2_process_attach(struct m2_supervisor *s, struct m2_session *session)
{
	const uint32_t pid = session->request.pid;
	const uint32_t uid = session->request.uid;
	if (pid == 0 || session->process != NULL)
		return true;
	struct m2_process *p = find_process(s, pid, uid);
	if (p == NULL) {
		int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
		if (fd >= descriptor_limit()) {
			(void)close(fd);
			fd = -1;
			errno = EMFILE;
		}
		if (fd < 0) {
			if (errno == ESRCH)
				return false;
			m2_warn("process %u cannot be watched: %s", pid, strerror(errno));
			return true;
		}
		p = new_process(s, pid, uid, fd);
		if (p == NULL) {
			(void)close(fd);
			return true;
		}
	}
	session->process = p;
	m2_list_append(&p->sessions, &session->of_process);
	return true;
}

void m2_process_detach(struct m2_session *session)
{
	struct m2_process *p = session->process;
	session->process = NULL;
	m2_list_remove(&session->of_process);
	if (p != NULL && m2_list_empty(&p->sessions))
		free_process(p);
}

void m2_processes_finish(struct m2_supervisor *s)
{
	while (!m2_list_empty(&s->processes))
		free_process(M2_LIST_OF(s->processes.next, struct m2_process, link));
}
