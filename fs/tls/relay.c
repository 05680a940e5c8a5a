/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Few threads, each with an epoll of its own (edge-triggered: whenever anything happened to either end of a link, all
 * is done that can be done without waiting). A link moves at most TURN bytes before it is others' turn.
 */
#include "fs/tls/internal.h"

#include "proto/base/cleanup.h"
#include "proto/base/io.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, TURN = 1 << 20, EVENTS = 64, TELL_AGAIN_MS = 10000 };

struct half { /* one direction */
	char *data; /* NULL: nothing is on its way */
	size_t start, end;
	bool ended, finished; /* no more comes in; and that was passed on */
};

struct link {
	LIST_ENTRY(link) all;
	struct link *next_ready, *next_dead;
	int wire, plain;
	SSL *ssl;
	bool shaken, ready, dead;
	bool abandoned; /* nobody is at the plain end any more */
	struct half out, in; /* to the wire, and from it */
};

struct tls_thread {
	struct tls_relay *relay;
	pthread_t thread;
	int epoll, wake;
	pthread_mutex_t lock; /* guards: links */
	LIST_HEAD(, link) links;
	struct link *ready, *dead; /* the thread's own */
	uint64_t told_ns;
	bool running;
};

struct tls_relay {
	SSL_CTX *context;
	bool server, stopping; /* atomic */
	unsigned count, turn;  /* turn: atomic */
	struct tls_thread threads[];
};

/* Links ---------------------------------------------------------------------------------------- */

static void drop(struct tls_thread *thread, struct link *link)
{
	if (link->dead)
		return;
	link->dead = true;
	shutdown(link->wire, SHUT_RDWR);
	shutdown(link->plain, SHUT_RDWR);
	link->next_dead = thread->dead;
	thread->dead = link;
}

static void link_destroy(struct link *link)
{
	SSL_free(link->ssl);
	close(link->wire);
	close(link->plain);
	free(link->out.data);
	free(link->in.data);
	free(link);
}

/* Said once in a while: whoever wants can make it happen. */
static void tell(struct tls_thread *thread, struct link *link)
{
	uint64_t now_ns = croft_now_ns();
	unsigned long code = ERR_peek_last_error();
	long verified = SSL_get_verify_result(link->ssl);
	const char *reason = verified != X509_V_OK ? X509_verify_cert_error_string(verified)
											   : ERR_reason_error_string(code);
	if (reason && (!thread->told_ns || now_ns - thread->told_ns > TELL_AGAIN_MS * UINT64_C(1000000))) {
		thread->told_ns = now_ns;
		croft_log(CROFT_LOG_WARNING, "TLS with a peer: %s", reason);
	}
}

/* 1: done; 0: not now; -1: the link is of no use any more (dropped, unless `end` and it was an orderly end: 2). */
static int after(struct tls_thread *thread, struct link *link, int result)
{
	int error = SSL_get_error(link->ssl, result);
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return 0;
	if (error == SSL_ERROR_ZERO_RETURN ||
		(error == SSL_ERROR_SSL && ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING &&
			link->shaken))
		return 2; /* who reads knows by the lengths whether that was all */
	if (error == SSL_ERROR_SSL)
		tell(thread, link);
	drop(thread, link);
	return -1;
}

/* Both ends are read and written alike: a count of bytes; 0: none now, or the link was dropped; ENDED: no more will
 * come. `finish` says so to the other side: false: not now. */
enum { ENDED = -1 };
struct end {
	ssize_t (*take)(struct tls_thread *thread, struct link *link, char *data);
	ssize_t (*give)(struct tls_thread *thread, struct link *link, const char *data, size_t size);
	bool (*finish)(struct tls_thread *thread, struct link *link);
};

static ssize_t take_plain(struct tls_thread *thread, struct link *link, char *data)
{
	ssize_t got = recv(link->plain, data, BUFFER, MSG_DONTWAIT);
	if (got > 0)
		return got;
	return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : ENDED;
}

static ssize_t give_plain(struct tls_thread *thread, struct link *link, const char *data, size_t size)
{
	ssize_t done = send(link->plain, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (done >= 0)
		return done;
	if (errno != EAGAIN && errno != EINTR)
		drop(thread, link);
	return 0;
}

static bool finish_plain(struct tls_thread *thread, struct link *link)
{
	shutdown(link->plain, SHUT_WR);
	return true;
}

static ssize_t take_wire(struct tls_thread *thread, struct link *link, char *data)
{
	ERR_clear_error();
	int got = SSL_read(link->ssl, data, BUFFER);
	if (got > 0)
		return got;
	return after(thread, link, got) == 2 ? ENDED : 0;
}

static ssize_t give_wire(struct tls_thread *thread, struct link *link, const char *data, size_t size)
{
	ERR_clear_error();
	int done = SSL_write(link->ssl, data, (int)size);
	if (done > 0)
		return done;
	if (after(thread, link, done) == 2)
		drop(thread, link);
	return 0;
}

static bool finish_wire(struct tls_thread *thread, struct link *link)
{
	ERR_clear_error();
	int done = SSL_shutdown(link->ssl);
	if (done < 0 && after(thread, link, done) == 0)
		return false;
	shutdown(link->wire, SHUT_WR);
	return true;
}

static const struct end plain_end = {take_plain, give_plain, finish_plain};
static const struct end wire_end = {take_wire, give_wire, finish_wire};

/* A direction's two steps. Each says whether it got on. */
static bool fill(struct tls_thread *thread, struct link *link, struct half *half, const struct end *from)
{
	if (half->data || half->ended)
		return false;
	half->data = croft_alloc(BUFFER);
	ssize_t got = from->take(thread, link, half->data);
	half->start = 0;
	half->end = got > 0 ? (size_t)got : 0;
	if (got > 0)
		return true;
	free(half->data);
	half->data = NULL;
	half->ended = got == ENDED;
	return half->ended;
}

static bool empty(struct tls_thread *thread, struct link *link, struct half *half, const struct end *to)
{
	if (!half->data) {
		if (!half->ended || half->finished)
			return false;
		half->finished = to->finish(thread, link);
		return half->finished;
	}
	ssize_t done = to->give(thread, link, half->data + half->start, half->end - half->start);
	if (done == 0)
		return false;
	half->start += (size_t)done;
	if (half->start == half->end) {
		free(half->data);
		half->data = NULL;
	}
	return true;
}

static bool move(struct tls_thread *thread, struct link *link, struct half *half, const struct end *from,
	const struct end *to)
{
	bool got_on = !link->dead && fill(thread, link, half, from);
	return (!link->dead && empty(thread, link, half, to)) || got_on;
}

static bool shake(struct tls_thread *thread, struct link *link)
{
	ERR_clear_error();
	int done = SSL_do_handshake(link->ssl);
	link->shaken = done == 1;
	if (!link->shaken && after(thread, link, done) == 2)
		drop(thread, link);
	return link->shaken;
}

static void be_ready(struct tls_thread *thread, struct link *link)
{
	if (link->ready || link->dead)
		return;
	link->ready = true;
	link->next_ready = thread->ready;
	thread->ready = link;
}

static void pump(struct tls_thread *thread, struct link *link)
{
	bool goes_on = link->shaken || shake(thread, link);
	size_t moved = 0;
	while (goes_on && !link->dead && moved < TURN) {
		goes_on = move(thread, link, &link->out, &plain_end, &wire_end);
		goes_on |= move(thread, link, &link->in, &wire_end, &plain_end);
		moved += BUFFER;
	}
	if (link->dead)
		return;
	/* Nobody waits for what could still come, and who does not take what was sent does not get it. */
	if ((link->out.finished && link->in.finished) || (link->abandoned && !goes_on))
		drop(thread, link);
	else if (goes_on)
		be_ready(thread, link);
}

/* Threads -------------------------------------------------------------------------------------- */

/* With the lock: whoever begins a link has then put both of its ends into the epoll. */
static void bury(struct tls_thread *thread)
{
	CROFT_LOCKED(&thread->lock);
	for (struct link *next, *link = thread->dead; link; link = next) {
		next = link->next_dead;
		LIST_REMOVE(link, all);
		link_destroy(link);
	}
	thread->dead = NULL;
}

static void run_ready(struct tls_thread *thread)
{
	struct link *list = thread->ready;
	thread->ready = NULL;
	for (struct link *next, *link = list; link; link = next) {
		next = link->next_ready;
		link->ready = false;
		if (!link->dead)
			pump(thread, link);
	}
}

static void *run(void *user)
{
	struct tls_thread *thread = user;
	struct epoll_event events[EVENTS];
	while (!__atomic_load_n(&thread->relay->stopping, __ATOMIC_ACQUIRE)) {
		int count = epoll_wait(thread->epoll, events, EVENTS, thread->ready ? 0 : -1);
		for (int i = 0; i < count; i++) {
			/* The lowest bit says that it is the plain end. */
			uintptr_t tagged = (uintptr_t)events[i].data.ptr;
			struct link *link = (struct link *)(tagged & ~(uintptr_t)1);
			if (!link)
				continue;
			link->abandoned |= (tagged & 1) && (events[i].events & EPOLLHUP);
			if (!link->dead && !link->ready)
				pump(thread, link);
		}
		run_ready(thread);
		bury(thread);
	}
	return NULL;
}

static bool start_thread(struct tls_thread *thread, const char *name, struct croft_error *err)
{
	struct epoll_event event = {.events = EPOLLIN};
	pthread_mutex_init(&thread->lock, NULL);
	LIST_INIT(&thread->links);
	thread->epoll = epoll_create1(EPOLL_CLOEXEC);
	thread->wake = eventfd(0, EFD_CLOEXEC);
	if (thread->epoll < 0 || thread->wake < 0 ||
		epoll_ctl(thread->epoll, EPOLL_CTL_ADD, thread->wake, &event) != 0)
		return croft_error_errno(err, errno, "starting TLS");
	/* What OpenSSL writes to a socket that was reset must not end the process. */
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int code = pthread_create(&thread->thread, NULL, run, thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	thread->running = code == 0;
	if (thread->running)
		pthread_setname_np(thread->thread, name);
	return thread->running || croft_error_errno(err, code, "starting a thread for TLS");
}

struct tls_relay *tls_relay_start(const char *name, const struct croft_tls *tls, bool server, unsigned threads,
	struct croft_error *err)
{
	SSL_CTX *context = tls_context_create(tls, server, err);
	if (!context)
		return NULL;
	struct tls_relay *relay = croft_zalloc(sizeof(*relay) + threads * sizeof(relay->threads[0]));
	relay->context = context;
	relay->server = server;
	while (relay->count < threads) {
		struct tls_thread *thread = &relay->threads[relay->count++];
		thread->relay = relay;
		if (!start_thread(thread, name, err)) {
			tls_relay_stop(relay);
			return NULL;
		}
	}
	return relay;
}

void tls_relay_stop(struct tls_relay *relay)
{
	if (!relay)
		return;
	__atomic_store_n(&relay->stopping, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < relay->count; i++) {
		struct tls_thread *thread = &relay->threads[i];
		if (thread->running) {
			eventfd_write(thread->wake, 1);
			pthread_join(thread->thread, NULL);
		}
		for (struct link *link; (link = LIST_FIRST(&thread->links));) {
			LIST_REMOVE(link, all);
			link_destroy(link);
		}
		if (thread->epoll >= 0)
			close(thread->epoll);
		if (thread->wake >= 0)
			close(thread->wake);
		pthread_mutex_destroy(&thread->lock);
	}
	SSL_CTX_free(relay->context);
	free(relay);
}

/* Beginning ------------------------------------------------------------------------------------ */

static bool watch(struct tls_thread *thread, struct link *link, struct croft_error *err)
{
	struct epoll_event plain = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		.data.ptr = (void *)((uintptr_t)link | 1)};
	struct epoll_event wire = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = link};
	CROFT_LOCKED(&thread->lock);
	LIST_INSERT_HEAD(&thread->links, link, all);
	if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, link->plain, &plain) == 0) {
		if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, link->wire, &wire) == 0)
			return true;
		int failure = errno; /* the thread has it already, and buries it once its other side is closed */
		shutdown(link->wire, SHUT_RDWR);
		return croft_error_errno(err, failure, "TLS: watching a connection");
	}
	croft_error_errno(err, errno, "TLS: watching a connection");
	LIST_REMOVE(link, all);
	link_destroy(link);
	return false;
}

int tls_relay_begin(struct tls_relay *relay, int socket, const char *host, struct croft_error *err)
{
	int pair[2], flags = fcntl(socket, F_GETFL);
	if (flags < 0 || fcntl(socket, F_SETFL, flags | O_NONBLOCK) != 0 ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
		croft_error_errno(err, errno, "TLS: making a pair of sockets");
		close(socket);
		return -1;
	}
	struct link *link = croft_zalloc(sizeof(*link));
	link->wire = socket;
	link->plain = pair[1];
	link->ssl = SSL_new(relay->context);
	if (!link->ssl || SSL_set_fd(link->ssl, socket) != 1)
		abort();
	if (relay->server)
		SSL_set_accept_state(link->ssl);
	else
		SSL_set_connect_state(link->ssl);
	if (!relay->server && !tls_expect(link->ssl, host)) {
		croft_error_set(err, CROFT_INVALID_ARGUMENT, "TLS: '%s' can be nobody's name", host ? host : "");
		link_destroy(link);
		close(pair[0]);
		return -1;
	}
	unsigned turn = __atomic_fetch_add(&relay->turn, 1, __ATOMIC_RELAXED);
	if (watch(&relay->threads[turn % relay->count], link, err))
		return pair[0];
	close(pair[0]);
	return -1;
}
