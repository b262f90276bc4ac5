/* Who asks, and measures. */
#define _GNU_SOURCE
#include "path_probe.h"
#include <arpa/inet.h>

#define CONNECTION_MESSAGE_BYTES 64
/* A path that does not answer for so long is broken. */
#define PATIENCE_MS 5000

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

void messages(const char *address, const char *port, const char *size_text, const char *time_text)
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
void connect_often(const char *address, const char *port, const char *time_text)
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
void stream(const char *address, const char *port, const char *size_text, const char *time_text)
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
