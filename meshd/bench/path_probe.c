/* path-probe: the two ends of a path that `meshctl bench path` and `meshctl bench short-circuit` measure. In C, because an
 * interpreter adds some ten microseconds to every message, as much as the paths differ by. Sockets are non-blocking and waited
 * for with epoll, as in the servers that people run.
 *
 *   path-probe serve ADDRESS PORT                             echoes until it is killed; says {"serving": PORT} first
 *   path-probe messages ADDRESS PORT SIZE MILLISECONDS CPU    {"count": n, "p50_ns": n, "p99_ns": n}
 *   path-probe connections ADDRESS PORT MILLISECONDS CPU      {"count": n, "elapsed_ns": n}
 *   path-probe stream ADDRESS PORT SIZE MILLISECONDS CPU      {"bytes": n, "elapsed_ns": n}: one way, SIZE in a write
 *   path-probe wakeups MILLISECONDS CPU CPU                   as messages: two processes that wake each other by eventfd
 *   path-probe calls MILLISECONDS CPU                         {"count": n, "elapsed_ns": n}: system calls that do nothing
 *
 * An ADDRESS with a slash is the path of a Unix socket, whose PORT says nothing.
 * CPU -1 leaves the process to the scheduler. A connection begins with four bytes, the size of its messages in network order;
 * the server answers each message of that size with as many bytes, and a stream, of no size, when it has ended, with how many
 * it was. What is in them nobody looks at. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_BYTES_MAX (64 << 10)
#define WRITE_BYTES_MAX	  (1 << 20)
/* In place of a size: what comes is a stream. */
#define STREAM UINT32_MAX
/* Whole messages are taken by one send(): a short one ends the probe. */
#define SOCKET_BUFFER_BYTES	 (4 * MESSAGE_BYTES_MAX)
#define CONNECTION_MESSAGE_BYTES 64
#define CONNECTIONS_MAX		 4096
#define SAMPLES_MAX		 (1 << 21)
/* Round trips before those that count: slow start, neighbours, caches. */
#define WARM_UP 50
/* A path that does not answer for so long is broken. */
#define PATIENCE_MS 5000

static char bytes[sizeof(uint32_t) + WRITE_BYTES_MAX];
static uint32_t samples[SAMPLES_MAX];

__attribute__((noreturn)) static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "no answer");
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		fail("sched_setaffinity");
}

struct endpoint {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_un un;
	};
	socklen_t length;
};

static struct endpoint endpoint(const char *address, const char *port)
{
	struct endpoint made = { .in = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) }, .length = sizeof(made.in) };

	errno = EINVAL;
	if (strchr(address, '/')) {
		memset(&made.un, 0, sizeof(made.un));
		made.un.sun_family = AF_UNIX;
		made.length = sizeof(made.un);
		if (strlen(address) >= sizeof(made.un.sun_path))
			fail(address);
		strcpy(made.un.sun_path, address);
	} else if (inet_pton(AF_INET, address, &made.in.sin_addr) != 1) {
		fail(address);
	}
	return made;
}

static int stream_socket(const struct endpoint *of)
{
	int made = socket(of->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;

	if (made < 0)
		fail("socket");
	/* Those that accept() makes of a listener inherit it. */
	if (of->any.sa_family == AF_INET)
		setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return made;
}

/* A stream leaves the size to the kernel, which knows better. */
static void send_buffer(int fd)
{
	int size = SOCKET_BUFFER_BYTES;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static void watch(int epoll, int operation, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	if (epoll_ctl(epoll, operation, fd, &event) < 0)
		fail("epoll_ctl");
}

static void send_whole(int fd, size_t size)
{
	ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);

	if (sent < 0)
		fail("send");
	if ((size_t)sent != size) {
		errno = EMSGSIZE;
		fail("send");
	}
}

/* The server's connections, by descriptor. */
static struct {
	uint32_t size; /* of its messages; 0: its first bytes are still to come */
	uint64_t received;
} connections[CONNECTIONS_MAX];

static void accept_one(int epoll, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return; /* whoever it was has gone */
	if (fd >= CONNECTIONS_MAX) {
		close(fd);
		return;
	}
	memset(&connections[fd], 0, sizeof(connections[fd]));
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
}

static void end_stream(int fd)
{
	uint64_t received = connections[fd].received;

	if (connections[fd].size == STREAM)
		send(fd, &received, sizeof(received), MSG_NOSIGNAL);
	close(fd);
}

static void serve_one(int fd)
{
	ssize_t found = recv(fd, bytes, sizeof(bytes), 0);
	uint32_t size;

	if (found == 0)
		end_stream(fd);
	else if (found < 0 && errno != EAGAIN)
		close(fd);
	if (found <= 0)
		return;
	if (!connections[fd].size) {
		memcpy(&size, bytes, sizeof(size));
		size = ntohl(size);
		if (found < (ssize_t)sizeof(size) || !size || (size > MESSAGE_BYTES_MAX && size != STREAM)) {
			close(fd);
			return;
		}
		connections[fd].size = size;
		found -= sizeof(size);
	}
	connections[fd].received += found;
	if (connections[fd].size == STREAM || connections[fd].received < connections[fd].size)
		return;
	connections[fd].received = 0;
	/* One that ended meanwhile is closed by its next event. */
	send(fd, bytes, connections[fd].size, MSG_NOSIGNAL);
}

static void serve(const char *address, const char *port)
{
	struct endpoint here = endpoint(address, port);
	int listener = stream_socket(&here), epoll = epoll_create1(EPOLL_CLOEXEC), on = 1;
	struct epoll_event events[64];

	/* Those that it accepts inherit both; a Unix socket's have a buffer of their own, which is large enough. */
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	send_buffer(listener);
	if (bind(listener, &here.any, here.length) < 0 || listen(listener, 4096) < 0)
		fail("listen");
	watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN);
	printf("{\"serving\": %s}\n", port);
	fflush(stdout);
	for (;;) {
		int ready = epoll_wait(epoll, events, 64, -1);

		for (int index = 0; index < ready; index++) {
			if (events[index].data.fd == listener)
				accept_one(epoll, listener);
			else
				serve_one(events[index].data.fd);
		}
	}
}

static void wait_for(int epoll)
{
	struct epoll_event event;

	errno = 0;
	if (epoll_wait(epoll, &event, 1, PATIENCE_MS) != 1)
		fail("epoll_wait");
}

/* A connection whose messages will be of ``size`` bytes; the size is the first thing in what it sends next. */
static int dial(int epoll, const struct endpoint *there)
{
	int fd = stream_socket(there), error = 0;
	socklen_t length = sizeof(error);

	if (connect(fd, &there->any, there->length) < 0 && errno != EINPROGRESS)
		fail("connect");
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLOUT);
	wait_for(epoll);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
	errno = error;
	if (error)
		fail("connect");
	watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
	return fd;
}

static void receive(int epoll, int fd, size_t size)
{
	for (size_t received = 0; received < size;) {
		ssize_t found;

		wait_for(epoll);
		found = recv(fd, bytes + sizeof(uint32_t), MESSAGE_BYTES_MAX, 0);
		if (found == 0)
			errno = ECONNRESET;
		if (found <= 0)
			fail("recv");
		received += found;
	}
}

static int compare(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return (a > b) - (a < b);
}

/* Quantiles are of the nearest rank, as in meshd/bench/statistics.py. */
static void tell(size_t count)
{
	if (!count) {
		errno = ETIME;
		fail("not one round trip");
	}
	qsort(samples, count, sizeof(*samples), compare);
	printf("{\"count\": %zu, \"p50_ns\": %u, \"p99_ns\": %u}\n", count, samples[(count + 1) / 2 - 1],
	       samples[(count * 99 + 99) / 100 - 1]);
}

static void messages(const char *address, const char *port, const char *size_text, const char *time_text)
{
	struct endpoint there = endpoint(address, port);
	uint32_t size = atoi(size_text), first = htonl(size);
	int epoll = epoll_create1(EPOLL_CLOEXEC), fd;
	uint64_t before = 0, end = 0;
	size_t count = 0;

	errno = EMSGSIZE;
	if (!size || size > MESSAGE_BYTES_MAX)
		fail("SIZE");
	fd = dial(epoll, &there);
	send_buffer(fd);
	memcpy(bytes, &first, sizeof(first));
	send_whole(fd, sizeof(first) + size);
	receive(epoll, fd, size);
	for (int number = 0; number < WARM_UP; number++) {
		send_whole(fd, size);
		receive(epoll, fd, size);
	}
	before = now_ns();
	end = before + (uint64_t)atoi(time_text) * 1000000;
	while (before < end && count < SAMPLES_MAX) {
		uint64_t after;

		send_whole(fd, size);
		receive(epoll, fd, size);
		after = now_ns();
		samples[count++] = after - before;
		before = after;
	}
	tell(count);
}

/* One after another: connect, a message each way, and a reset, so that no port waits for a minute. */
static void connect_often(const char *address, const char *port, const char *time_text)
{
	struct endpoint there = endpoint(address, port);
	struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	uint32_t first = htonl(CONNECTION_MESSAGE_BYTES);
	uint64_t began, end, now;
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	size_t count = 0;

	memcpy(bytes, &first, sizeof(first));
	now = began = now_ns();
	end = began + (uint64_t)atoi(time_text) * 1000000;
	for (; now < end; now = now_ns(), count++) {
		int fd = dial(epoll, &there);

		send_whole(fd, sizeof(first) + CONNECTION_MESSAGE_BYTES);
		receive(epoll, fd, CONNECTION_MESSAGE_BYTES);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
	printf("{\"count\": %zu, \"elapsed_ns\": %llu}\n", count, (unsigned long long)(now - began));
}

/* As many bytes as can be in so long, and until the server has read them all. */
static void stream(const char *address, const char *port, const char *size_text, const char *time_text)
{
	struct endpoint there = endpoint(address, port);
	uint32_t size = atoi(size_text), first = htonl(STREAM);
	int epoll = epoll_create1(EPOLL_CLOEXEC), fd;
	uint64_t began, end, now, received = 0;

	errno = EMSGSIZE;
	if (!size || size > WRITE_BYTES_MAX)
		fail("SIZE");
	fd = dial(epoll, &there);
	memcpy(bytes, &first, sizeof(first));
	send_whole(fd, sizeof(first));
	memset(bytes, 0, sizeof(first));
	watch(epoll, EPOLL_CTL_MOD, fd, EPOLLOUT);
	began = now_ns();
	end = began + (uint64_t)atoi(time_text) * 1000000;
	do {
		if (send(fd, bytes, size, MSG_NOSIGNAL) < 0) {
			if (errno != EAGAIN)
				fail("send");
			wait_for(epoll);
		}
		now = now_ns();
	} while (now < end);
	watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
	shutdown(fd, SHUT_WR);
	wait_for(epoll);
	if (recv(fd, &received, sizeof(received), 0) != sizeof(received))
		fail("recv");
	now = now_ns();
	printf("{\"bytes\": %llu, \"elapsed_ns\": %llu}\n", (unsigned long long)received, (unsigned long long)(now - began));
}

/* getppid(): the cheapest, so what is added to each system call shows most. */
static void calls(const char *time_text)
{
	uint64_t began = now_ns(), end = began + (uint64_t)atoi(time_text) * 1000000, now;
	size_t count = 0;

	do {
		for (int number = 0; number < 1000; number++)
			syscall(SYS_getppid);
		count += 1000;
		now = now_ns();
	} while (now < end);
	printf("{\"count\": %zu, \"elapsed_ns\": %llu}\n", count, (unsigned long long)(now - began));
}

static void wake(int other)
{
	uint64_t one = 1;

	if (write(other, &one, sizeof(one)) != sizeof(one))
		fail("write");
}

static void be_woken(int own)
{
	uint64_t value;

	if (read(own, &value, sizeof(value)) != sizeof(value))
		fail("read");
}

static void wakeups(const char *time_text, int cpu, int other_cpu)
{
	int here = eventfd(0, EFD_CLOEXEC), there = eventfd(0, EFD_CLOEXEC);
	uint64_t before, end;
	size_t count = 0;
	pid_t parent = getpid(), child = fork();

	if (child < 0)
		fail("fork");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			exit(1);
		stay_on(other_cpu);
		for (;;) {
			be_woken(there);
			wake(here);
		}
	}
	stay_on(cpu);
	for (int number = 0; number < WARM_UP; number++) {
		wake(there);
		be_woken(here);
	}
	before = now_ns();
	end = before + (uint64_t)atoi(time_text) * 1000000;
	while (before < end && count < SAMPLES_MAX) {
		uint64_t after;

		wake(there);
		be_woken(here);
		after = now_ns();
		samples[count++] = after - before;
		before = after;
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	tell(count);
}

int main(int count, char **words)
{
	const char *what = count > 1 ? words[1] : "";

	if (!strcmp(what, "serve") && count == 4) {
		serve(words[2], words[3]);
	} else if (!strcmp(what, "messages") && count == 7) {
		stay_on(atoi(words[6]));
		messages(words[2], words[3], words[4], words[5]);
	} else if (!strcmp(what, "connections") && count == 6) {
		stay_on(atoi(words[5]));
		connect_often(words[2], words[3], words[4]);
	} else if (!strcmp(what, "stream") && count == 7) {
		stay_on(atoi(words[6]));
		stream(words[2], words[3], words[4], words[5]);
	} else if (!strcmp(what, "calls") && count == 4) {
		stay_on(atoi(words[3]));
		calls(words[2]);
	} else if (!strcmp(what, "wakeups") && count == 5) {
		wakeups(words[2], atoi(words[3]), atoi(words[4]));
	} else {
		fprintf(stderr, "usage: path-probe serve|messages|connections|stream|wakeups|calls ...\n");
		return 2;
	}
	return 0;
}
