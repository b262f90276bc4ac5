/* Who answers: an event loop, as in the servers that people run. */
#define _GNU_SOURCE
#include "path_probe.h"
#include <arpa/inet.h>

#define CONNECTIONS_MAX 4096

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

void serve(const char *address, const char *port)
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
