/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the program that admits connections and the one that decides about their messages have in common. */
#pragma once

#include "lib/destination.h"
#include "lib/tuple.h"
#include "maps/short_circuit.h"

/* 1: the kernel lets programs read what is needed here. */
const volatile __u32 short_circuit __weak = 0;

/* What is kept in a flow: under which epoch it was looked at last, and how many packets it had. */
#define EXAMINED_EPOCH	0x00ffffff
#define EXAMINED_PACKET 0x01000000

/* A connection that could not be admitted, but may be another time, is looked at again after so long; then after twice as
 * long each time, up to this many times.
 */
const volatile __u64 short_circuit_look_again_ns __weak = 1000000000;
#define LOOKS_DOUBLED 6

/* Of a connection that was looked at: when to look again. */
enum admission {
	ADMISSION_SETTLED, /* in another epoch */
	ADMISSION_LATER,   /* with the next packet */
	ADMISSION_REFUSED, /* after a pause */
};

static __always_inline void look_again_later(struct flow *flow)
{
	__u32 refusals = flow->refusals;

	flow->look_again_ns = bpf_ktime_get_coarse_ns() + (short_circuit_look_again_ns << refusals);
	if (refusals < LOOKS_DOUBLED)
		flow->refusals = refusals + 1;
}

enum short_circuit_verdict {
	SHORT_CIRCUIT_ELIGIBLE,
	SHORT_CIRCUIT_TO_TCP,  /* it may go on, on TCP */
	SHORT_CIRCUIT_DROPPED, /* TC would drop what the socket sends */
};

static __always_inline void count_short_circuit(enum short_circuit_event event)
{
	__u64 *counter = bpf_map_lookup_elem(&short_circuit_events, &event);

	if (counter)
		*counter += 1;
}

static __always_inline __u32 short_circuit_epoch_now(void)
{
	__u32 only = 0;
	const __u32 *epoch = bpf_map_lookup_elem(&short_circuit_epoch, &only);

	return epoch ? *epoch & EXAMINED_EPOCH : 0;
}

/* Every connection is decided about anew. Agent and programs count in the same number. */
static __always_inline void raise_short_circuit_epoch(void)
{
	__u32 only = 0, *epoch = bpf_map_lookup_elem(&short_circuit_epoch, &only);

	/* 0 is the epoch of what was never looked at. */
	if (epoch && !((__sync_fetch_and_add(epoch, 1) + 1) & EXAMINED_EPOCH))
		__sync_fetch_and_add(epoch, 1);
}

static __always_inline bool short_circuit_is_on(void)
{
	__u32 only = 0;
	const __u32 *on = bpf_map_lookup_elem(&short_circuit_switch, &only);

	return on && *on;
}

static __always_inline bool is_excluded(__u64 netns_cookie)
{
	const struct short_circuit_watch *watch = bpf_map_lookup_elem(&short_circuit_watches, &netns_cookie);

	return watch && watch->exclusion;
}

/* Whether from_pod lets out what a socket of that namespace sends under that address; what the node itself sends it does not
 * see.
 */
static __always_inline bool may_send(const struct address *source, __u64 netns_cookie)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, source);

	return pod ? pod->netns_cookie == netns_cookie : destination_kind(source) == DESTINATION_HOST;
}

/* Whether what a socket sends may be short-circuited, as it is now: before its connection is admitted, and again in each epoch.
 * Cookies: of the namespaces that both sockets are in.
 */
__weak __noinline enum short_circuit_verdict short_circuit_verdict(const struct tuple *tuple, __u64 source_cookie,
								   __u64 destination_cookie)
{
	const struct short_circuit_workload *source, *destination;

	/* Linux 6.1 takes no key for a map out of what a global function was handed, and looks no further than this. */
	if (!tuple || !short_circuit)
		return SHORT_CIRCUIT_TO_TCP;
	if (!may_send(&tuple->source, source_cookie))
		return SHORT_CIRCUIT_DROPPED;
	source = bpf_map_lookup_elem(&short_circuit_workloads, &tuple->source);
	destination = bpf_map_lookup_elem(&short_circuit_workloads, &tuple->destination);
	/* Who has the address now may be another than who has the connection. */
	if (!source || !destination || source->netns_cookie != source_cookie ||
	    destination->netns_cookie != destination_cookie)
		return SHORT_CIRCUIT_TO_TCP;
	if (is_excluded(source_cookie) || is_excluded(destination_cookie))
		return SHORT_CIRCUIT_TO_TCP;
	return SHORT_CIRCUIT_ELIGIBLE;
}

static __always_inline void add_sent(struct short_circuit_sent *sum, const struct short_circuit_end *end)
{
	__sync_fetch_and_add(&sum->bytes, end->bytes);
	__sync_fetch_and_add(&sum->messages, end->messages);
	__sync_fetch_and_add(&sum->passed_bytes, end->passed_bytes);
	__sync_fetch_and_add(&sum->passed_messages, end->passed_messages);
	for (int cause = 0; cause < SHORT_CIRCUIT_CAUSES; cause++)
		__sync_fetch_and_add(&sum->causes[cause], (__u64)end->causes[cause]);
}

/* A connection is over, or its sockets have left: what it was goes into the sum of its pair. */
__weak __noinline int short_circuit_close(const struct tuple *key)
{
	struct short_circuit_connection *connection;
	static const struct short_circuit_total none;
	struct short_circuit_total *total;

	if (!key || !short_circuit)
		return 0;
	connection = bpf_map_lookup_elem(&short_circuit_connections, key);
	if (!connection)
		return 0;
	/* The pair is what the key begins with: its addresses. */
	bpf_map_update_elem(&short_circuit_totals, key, &none, BPF_NOEXIST);
	total = bpf_map_lookup_elem(&short_circuit_totals, key);
	if (total) {
		__sync_fetch_and_add(&total->connections, 1);
		add_sent(&total->sent[0], &connection->ends[0]);
		add_sent(&total->sent[1], &connection->ends[1]);
	}
	bpf_map_delete_elem(&short_circuit_connections, key);
	return 1;
}
