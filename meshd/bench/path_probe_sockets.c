/* The sockets of both ends. */
#define _GNU_SOURCE
#include "path_probe.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>

/* Whole messages are taken by one send(): a short one ends the probe. */
#define SOCKET_BUFFER_BYTES (4 * MESSAGE_BYTES_MAX)

struct endpoint endpoint(const char *address, const char *port)
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

int stream_socket(const struct endpoint *of)
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
void send_buffer(int fd)
{
	int size = SOCKET_BUFFER_BYTES;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

void watch(int epoll, int operation, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	if (epoll_ctl(epoll, operation, fd, &event) < 0)
		fail("epoll_ctl");
}

void send_whole(int fd, size_t size)
{
	ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);

	if (sent < 0)
		fail("send");
	if ((size_t)sent != size) {
		errno = EMSGSIZE;
		fail("send");
	}
}
