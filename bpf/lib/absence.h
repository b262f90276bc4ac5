/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* While no agent is there, the hooks see for themselves which backends answer. With an agent they judge nobody: it asks nodes, and
 * hears what their clusters say. What they note of backends that another cluster may have can only confirm what it finds.
 */
#pragma once

#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include "lib/endpoint.h"

#define ABSENT_AFTER_NS	  1000000000LL
#define UNANSWERED_MOST	  3
#define UNANSWERED_FOR_NS 300000000LL
#define AVOIDED_FOR_NS	  10000000000LL
/* Attempts so far apart have nothing to do with each other. */
#define ATTEMPTS_TOGETHER_NS 10000000000LL

/* Whether an agent was there, and is not any more. Another CPU may have read the clock after our `now`. */
static __always_inline bool is_agent_absent(__u64 now)
{
	__u32 only = 0;
	const __u64 *last = bpf_map_lookup_elem(&beat, &only);

	return last && *last && (__s64)(now - *last) > ABSENT_AFTER_NS;
}

/* One that did not answer three times in a row, the last time for 300 ms, is avoided for 10 s. */
static __always_inline bool is_avoided(const struct endpoint *backend, __u64 now)
{
	struct attempts *known = bpf_map_lookup_elem(&attempts, backend);

	if (!known)
		return false;
	if (now < known->avoided_until_ns)
		return true;
	if (known->unanswered < UNANSWERED_MOST || !known->third_ns || (__s64)(now - known->third_ns) < UNANSWERED_FOR_NS ||
	    (__s64)(now - known->last_ns) > ATTEMPTS_TOGETHER_NS)
		return false;
	known->avoided_until_ns = now + AVOIDED_FOR_NS;
	known->third_ns = 0;
	known->unanswered = 0;
	return true;
}

static __always_inline void note_attempt(const struct endpoint *backend, __u64 now)
{
	struct attempts *known = bpf_map_lookup_elem(&attempts, backend);
	struct attempts first = {
		.last_ns = now,
		.unanswered = 1,
		.begun = 1,
	};

	if (!known) {
		bpf_map_update_elem(&attempts, backend, &first, BPF_ANY);
		return;
	}
	__sync_fetch_and_add(&known->begun, 1);
	if ((__s64)(now - known->last_ns) > ATTEMPTS_TOGETHER_NS) {
		known->last_ns = now;
		known->third_ns = 0;
		known->avoided_until_ns = 0;
		known->unanswered = 1;
		return;
	}
	known->last_ns = now;
	/* Exactly one CPU makes it the third. */
	if (__sync_fetch_and_add(&known->unanswered, 1) + 1 == UNANSWERED_MOST)
		known->third_ns = now;
}

/* Most connections are to nobody who is known here: for them this is one lookup. */
static __always_inline void note_answer(const struct endpoint *backend)
{
	struct attempts *known = bpf_map_lookup_elem(&attempts, backend);

	if (!known)
		return;
	known->answered_ns = bpf_ktime_get_ns();
	__sync_fetch_and_add(&known->answered, 1);
	known->unanswered = 0;
	known->third_ns = 0;
	known->avoided_until_ns = 0;
}
