/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks addresses again and again whether anything is there, on a thread of its own: neither Python's lock nor what its event loop
 * has to do delays a question or the note of an answer. A question is a TCP connect; SYN-ACK and RST (RFC 9293, 3.10.7.1) are
 * answers alike. What silence means is decided elsewhere.
 */
#ifndef MESHD_KERNEL_PROBER_H
#define MESHD_KERNEL_PROBER_H

#include <stdint.h>

/* Whom to ask, at which port, from where (zeros: as routes say). IPv4 as ::ffff:a.b.c.d. `id` is the caller's, and not reused. */
struct meshd_probe_target {
	uint8_t address[16], source[16];
	uint32_t id;
	uint16_t port;
};

/* What came of it. Times are CLOCK_MONOTONIC in ns; 0: never. */
struct meshd_probe_state {
	uint32_t id;
	uint32_t unanswered; /* sent since the last answer came */
	uint32_t unsent;     /* and could not be, because this host would not: it has no way there, or no socket left */
	uint64_t asked, answered;
	uint64_t last_asked_ns, last_answer_ns;
	uint64_t srtt_ns, rttvar_ns; /* RFC 6298, 2; 0: not known */
	int32_t last_error;	     /* errno of the last that was unsent, or that an ICMP error answered; 0: none */
};

/* How well the prober itself does. */
struct meshd_prober_health {
	uint64_t now_ns;
	uint64_t late_ns; /* for so long, in all, somebody was not asked who should have been: each time more than 100 ms */
	uint64_t turns;
};

struct meshd_prober;

/* NULL with errno: it could not be started. The thread is in the namespaces and cgroup of the caller. */
struct meshd_prober *meshd_prober_start(void);
/* From now on these, each every `interval_ns`; who was asked before (the same id) keeps its state. 0 or -errno. */
int meshd_prober_set(struct meshd_prober *prober, const struct meshd_probe_target *targets, uint32_t count,
		     uint64_t interval_ns);
/* States of at most `room` targets; how many there are. */
uint32_t meshd_prober_read(struct meshd_prober *prober, struct meshd_probe_state *out, uint32_t room,
			   struct meshd_prober_health *health);
void meshd_prober_stop(struct meshd_prober *prober);

#endif
