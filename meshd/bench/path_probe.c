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
#include "path_probe.h"
#include <sched.h>
#include <time.h>

char bytes[sizeof(uint32_t) + WRITE_BYTES_MAX];
uint32_t samples[SAMPLES_MAX];

__attribute__((noreturn)) void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "no answer");
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void stay_on(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		fail("sched_setaffinity");
}

static int compare(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return (a > b) - (a < b);
}

/* Quantiles are of the nearest rank, as in meshd/bench/statistics.py. */
void tell(size_t count)
{
	if (!count) {
		errno = ETIME;
		fail("not one round trip");
	}
	qsort(samples, count, sizeof(*samples), compare);
	printf("{\"count\": %zu, \"p50_ns\": %u, \"p99_ns\": %u}\n", count, samples[(count + 1) / 2 - 1],
	       samples[(count * 99 + 99) / 100 - 1]);
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
