// SPDX-License-Identifier: Apache-2.0
#include "prober.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MS	   1000000ULL
#define LATE_NS	   (100 * MS)
#define GIVE_UP_NS (3000 * MS) /* answers that come later are nobody's */
/* Of all targets: each is a descriptor of the agent's, who needs some for others. */
#define MOST_QUESTIONS 512
/* Who has been silent for so many questions is asked more seldom, until it answers. */
#define SILENT_AFTER 64
#define SELDOM	     4
#define EVENTS	     64
/* linux/in.h: older C libraries lack it. */
#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

struct target {
	struct meshd_probe_target is;
	struct meshd_probe_state state;
	uint64_t due_ns;
};

/* In the order in which they were asked. */
struct question {
	struct question *earlier, *later;
	uint64_t asked_ns;
	uint32_t id;
	int fd;
};

struct meshd_prober {
	pthread_t thread;
	pthread_mutex_t lock; /* of all below */
	int epoll, woken;
	bool ends;
	struct target *targets; /* by id, ascending */
	uint32_t count, questions;
	uint64_t interval_ns;
	struct question oldest; /* the head of the ring of questions */
	struct meshd_prober_health health;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 * MS + (uint64_t)now.tv_nsec;
}

static int by_id(const void *a, const void *b)
{
	uint32_t left = ((const struct target *)a)->is.id, right = ((const struct target *)b)->is.id;

	return left < right ? -1 : left > right;
}

static struct target *find(struct meshd_prober *prober, uint32_t id)
{
	struct target key = { .is.id = id };

	return prober->count ? bsearch(&key, prober->targets, prober->count, sizeof(key), by_id) : NULL;
}

static void forget(struct meshd_prober *prober, struct question *question)
{
	prober->questions--;
	question->earlier->later = question->later;
	question->later->earlier = question->earlier;
	/* With linger of 0 an established connection is reset, and nothing stays behind at either end. */
	close(question->fd);
	free(question);
}

/* RFC 6298, 2.2 and 2.3. */
static void measure(struct meshd_probe_state *state, uint64_t rtt)
{
	uint64_t off = state->srtt_ns > rtt ? state->srtt_ns - rtt : rtt - state->srtt_ns;

	if (!state->srtt_ns) {
		state->srtt_ns = rtt;
		state->rttvar_ns = rtt / 2;
		return;
	}
	state->rttvar_ns = (3 * state->rttvar_ns + off) / 4;
	state->srtt_ns = (7 * state->srtt_ns + rtt) / 8;
}

static void heard(struct meshd_prober *prober, struct question *question, uint64_t now)
{
	struct target *target = find(prober, question->id);
	int error = 0;
	socklen_t size = sizeof(error);

	if (target && getsockopt(question->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0) {
		if (!error || error == ECONNREFUSED) {
			target->state.answered++;
			target->state.unanswered = target->state.unsent = 0;
			target->state.last_answer_ns = now;
			/* One that took a second was sent again by the kernel: which of both was answered, nobody knows. */
			if (now - question->asked_ns < 900 * MS)
				measure(&target->state, now - question->asked_ns);
		} else {
			target->state.last_error = error;
		}
	}
	forget(prober, question);
}

static socklen_t fill(struct sockaddr_storage *to, const uint8_t *address, uint16_t port)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	memset(to, 0, sizeof(*to));
	if (!memcmp(address, mapped, sizeof(mapped))) {
		struct sockaddr_in *v4 = (void *)to;

		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		memcpy(&v4->sin_addr, address + sizeof(mapped), sizeof(v4->sin_addr));
		return sizeof(*v4);
	} else {
		struct sockaddr_in6 *v6 = (void *)to;

		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		memcpy(&v6->sin6_addr, address, sizeof(v6->sin6_addr));
		return sizeof(*v6);
	}
}

/* A socket that connects; -1 with errno: it does not even begin to. */
static int begin(const struct meshd_probe_target *to)
{
	static const uint8_t none[16];
	struct linger at_once = { .l_onoff = 1 };
	struct sockaddr_storage address;
	socklen_t size = fill(&address, to->address, to->port);
	int fd, on = 1, error;

	fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	if (memcmp(to->source, none, sizeof(none))) {
		struct sockaddr_storage from;
		socklen_t from_size = fill(&from, to->source, 0);

		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
		if (bind(fd, (struct sockaddr *)&from, from_size))
			goto fail;
	}
	if (!connect(fd, (struct sockaddr *)&address, size) || errno == EINPROGRESS)
		return fd;
fail:
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* 0 or errno. */
static int send_question(struct meshd_prober *prober, const struct meshd_probe_target *to, uint64_t now)
{
	struct epoll_event event = { .events = EPOLLOUT };
	struct question *question = calloc(1, sizeof(*question));
	int fd = begin(to), error;

	event.data.ptr = question;
	if (fd < 0 || !question || epoll_ctl(prober->epoll, EPOLL_CTL_ADD, fd, &event)) {
		error = question ? errno : ENOMEM;
		free(question);
		if (fd >= 0)
			close(fd);
		return error;
	}
	question->id = to->id;
	question->fd = fd;
	question->asked_ns = now;
	question->earlier = prober->oldest.earlier;
	question->later = &prober->oldest;
	question->earlier->later = question;
	prober->oldest.earlier = question;
	if (++prober->questions > MOST_QUESTIONS)
		forget(prober, prober->oldest.later);
	return 0;
}

static void ask(struct meshd_prober *prober, struct target *target, uint64_t now)
{
	int error = send_question(prober, &target->is, now);

	target->state.asked++;
	target->state.last_asked_ns = now;
	if (error) {
		target->state.unsent++;
		target->state.last_error = error;
	} else {
		target->state.unanswered++;
	}
}

static void ask_all(struct meshd_prober *prober, uint64_t now)
{
	uint64_t late = 0, pause;

	for (uint32_t i = 0; i < prober->count; i++) {
		struct target *target = &prober->targets[i];

		if (target->due_ns > now)
			continue;
		if (now - target->due_ns > late)
			late = now - target->due_ns;
		ask(prober, target, now);
		pause = prober->interval_ns * (target->state.unanswered > SILENT_AFTER ? SELDOM : 1);
		target->due_ns += pause;
		/* What was missed is not made up for. */
		if (target->due_ns <= now)
			target->due_ns = now + pause;
	}
	if (late > LATE_NS)
		prober->health.late_ns += late;
}

static void give_up(struct meshd_prober *prober, uint64_t now)
{
	while (prober->oldest.later != &prober->oldest && now - prober->oldest.later->asked_ns > GIVE_UP_NS)
		forget(prober, prober->oldest.later);
}

static uint64_t until_due(const struct meshd_prober *prober, uint64_t now)
{
	uint64_t first = UINT64_MAX;

	for (uint32_t i = 0; i < prober->count; i++)
		if (prober->targets[i].due_ns < first)
			first = prober->targets[i].due_ns;
	return first == UINT64_MAX ? UINT64_MAX : first <= now ? 0 : first - now;
}

static void *probe(void *argument)
{
	struct meshd_prober *prober = argument;
	struct epoll_event events[EVENTS];

	for (;;) {
		uint64_t pause, now, count;
		int found;

		pthread_mutex_lock(&prober->lock);
		pause = until_due(prober, now_ns());
		pthread_mutex_unlock(&prober->lock);
		/* Rounded up: a look that comes a little early would find nothing due, and look again and again. */
		found = epoll_wait(prober->epoll, events, EVENTS, pause == UINT64_MAX ? -1 : (int)((pause + MS - 1) / MS));
		pthread_mutex_lock(&prober->lock);
		now = now_ns();
		/* Answers first: those that came while we were kept from running came before it is asked who is silent. */
		for (int i = 0; i < found; i++) {
			if (events[i].data.ptr)
				heard(prober, events[i].data.ptr, now);
			else if (read(prober->woken, &count, sizeof(count)) < 0)
				continue;
		}
		if (found < EVENTS)
			ask_all(prober, now);
		give_up(prober, now);
		prober->health.turns++;
		if (prober->ends)
			break;
		pthread_mutex_unlock(&prober->lock);
	}
	pthread_mutex_unlock(&prober->lock);
	return NULL;
}

static void wake(struct meshd_prober *prober)
{
	uint64_t one = 1;

	while (write(prober->woken, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void discard(struct meshd_prober *prober)
{
	while (prober->oldest.later != &prober->oldest)
		forget(prober, prober->oldest.later);
	if (prober->epoll >= 0)
		close(prober->epoll);
	if (prober->woken >= 0)
		close(prober->woken);
	free(prober->targets);
	pthread_mutex_destroy(&prober->lock);
	free(prober);
}

/* Signals are the main thread's affair. */
static int start_thread(struct meshd_prober *prober)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&prober->thread, NULL, probe, prober);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

struct meshd_prober *meshd_prober_start(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct meshd_prober *prober = calloc(1, sizeof(*prober));
	int error;

	if (!prober)
		return NULL;
	pthread_mutex_init(&prober->lock, NULL);
	prober->oldest.earlier = prober->oldest.later = &prober->oldest;
	prober->woken = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	prober->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (prober->woken < 0 || prober->epoll < 0 || epoll_ctl(prober->epoll, EPOLL_CTL_ADD, prober->woken, &event)) {
		error = errno;
		goto fail;
	}
	error = start_thread(prober);
	if (!error)
		return prober;
fail:
	discard(prober);
	errno = error;
	return NULL;
}

int meshd_prober_set(struct meshd_prober *prober, const struct meshd_probe_target *targets, uint32_t count,
		     uint64_t interval_ns)
{
	struct target *made = calloc(count ? count : 1, sizeof(*made)), *before;
	uint64_t now = now_ns();

	if (!made)
		return -ENOMEM;
	pthread_mutex_lock(&prober->lock);
	for (uint32_t i = 0; i < count; i++) {
		before = find(prober, targets[i].id);
		made[i].is = targets[i];
		made[i].state.id = targets[i].id;
		/* Spread, so that they are not all asked in the same instant. */
		made[i].due_ns = now + interval_ns * i / count;
		if (before) {
			made[i].state = before->state;
			made[i].due_ns = before->due_ns;
		}
	}
	qsort(made, count, sizeof(*made), by_id);
	free(prober->targets);
	prober->targets = made;
	prober->count = count;
	prober->interval_ns = interval_ns;
	pthread_mutex_unlock(&prober->lock);
	wake(prober);
	return 0;
}

uint32_t meshd_prober_read(struct meshd_prober *prober, struct meshd_probe_state *out, uint32_t room,
			   struct meshd_prober_health *health)
{
	uint32_t count;

	pthread_mutex_lock(&prober->lock);
	count = prober->count;
	for (uint32_t i = 0; i < count && i < room; i++)
		out[i] = prober->targets[i].state;
	*health = prober->health;
	health->now_ns = now_ns();
	pthread_mutex_unlock(&prober->lock);
	return count;
}

void meshd_prober_stop(struct meshd_prober *prober)
{
	pthread_mutex_lock(&prober->lock);
	prober->ends = true;
	pthread_mutex_unlock(&prober->lock);
	wake(prober);
	pthread_join(prober->thread, NULL);
	discard(prober);
}
