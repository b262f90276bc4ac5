/* What everything else is measured beside: system calls, and two processes that wake each other. */
#define _GNU_SOURCE
#include "path_probe.h"
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* getppid(): the cheapest, so what is added to each system call shows most. */
void calls(const char *time_text)
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

void wakeups(const char *time_text, int cpu, int other_cpu)
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
