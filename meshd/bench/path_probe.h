/* What the parts of path-probe have in common (path_probe.c). */
#pragma once

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MESSAGE_BYTES_MAX (64 << 10)
#define WRITE_BYTES_MAX	  (1 << 20)
/* In place of a size: what comes is a stream. */
#define STREAM	    UINT32_MAX
#define SAMPLES_MAX (1 << 21)
/* Round trips before those that count: slow start, neighbours, caches. */
#define WARM_UP 50

/* What is sent and received; nobody looks at it. */
extern char bytes[sizeof(uint32_t) + WRITE_BYTES_MAX];
/* Nanoseconds of round trips, for `tell`. */
extern uint32_t samples[SAMPLES_MAX];

struct endpoint {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_un un;
	};
	socklen_t length;
};

/* path_probe.c */
__attribute__((noreturn)) void fail(const char *what);
uint64_t now_ns(void);
void stay_on(int cpu);
void tell(size_t count);

/* path_probe_sockets.c */
struct endpoint endpoint(const char *address, const char *port);
int stream_socket(const struct endpoint *of);
void send_buffer(int fd);
void watch(int epoll, int operation, int fd, uint32_t events);
void send_whole(int fd, size_t size);

/* path_probe_server.c */
void serve(const char *address, const char *port);

/* path_probe_client.c */
void messages(const char *address, const char *port, const char *size_text, const char *time_text);
void connect_often(const char *address, const char *port, const char *time_text);
void stream(const char *address, const char *port, const char *size_text, const char *time_text);

/* path_probe_local.c */
void calls(const char *time_text);
void wakeups(const char *time_text, int cpu, int other_cpu);
