/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flows that nobody has sent a packet of for too long are removed, both entries of a translated one as one.
 *
 * A walk over a table takes one bucket after the other and never stops who looks something up. It sees an entry once, unless
 * that moves from `new_flows` to `flows` meanwhile; then it may be counted twice, or not, until the next walk.
 */
#pragma once

#include "lib/flow.h"
#include "lib/rewrite.h"
#include "lib/short_circuit.h"

const volatile __u32 timeout_established_s = 21600;
const volatile __u32 timeout_closing_s = 60;
const volatile __u32 timeout_unanswered_s = 60;
const volatile __u32 timeout_datagram_s = 180;
const volatile __u32 timeout_echo_s = 30;

/* An alias is there before its entry: for this long it may be without. */
#define ORPHAN_AGE_NS 5000000000LL

struct bpf_map; /* the walked one, of which nothing is asked */

struct expiry_walk {
	struct flow_expiry done;
	__u64 now_ns;
	bool settled; /* the table is `flows` */
	__u8 pad[7];
};

/* For how long a flow may be idle, and which number it is one more of. */
struct flow_state {
	__u64 *count;
	__u32 timeout_s;
	__u32 pad;
};

static __always_inline struct flow_state flow_state(const struct tuple *key, const struct flow *flow, bool settled,
						    struct flow_counts *counts)
{
	if (flow->flags & FLOW_OVER)
		return (struct flow_state){ &counts->closing, timeout_closing_s };
	if (!settled)
		return (struct flow_state){ &counts->unanswered, timeout_unanswered_s };
	if (key->protocol == IPPROTO_TCP)
		return (struct flow_state){ &counts->established, timeout_established_s };
	if (is_echo(key))
		return (struct flow_state){ &counts->echo, timeout_echo_s };
	return (struct flow_state){ &counts->datagram, timeout_datagram_s };
}

static __always_inline bool is_idle(__s64 idle_ns, __u32 timeout_s)
{
	return idle_ns >= (__s64)timeout_s * 1000000000LL;
}

/* One more flow that the owner has; the map's other entries wait for `take_count`. */
static __always_inline void count_owned(const struct address *owner)
{
	__u64 *counted, one = 1;

	if (address_is_zero(owner))
		return;
	counted = bpf_map_lookup_elem(&pod_flows_counted, owner);
	if (counted)
		*counted += 1;
	else
		bpf_map_update_elem(&pod_flows_counted, owner, &one, BPF_NOEXIST);
}

/* Whether no entry says that this is its translated side: it was pushed out of `new_flows`, or begun anew since. */
static __noinline bool is_orphan(const struct tuple *alias_key, const struct flow *alias)
{
	struct tuple key, other;
	const struct flow *flow;
	bool settled;

	flow_key(&alias->other, &key);
	flow = flow_lookup(&key, &settled);
	/* It may have moved from the second table to the first between the two lookups. */
	if (!flow)
		flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return true;
	flow_key(&flow->other, &other);
	return !tuple_equal(&other, alias_key);
}

static __always_inline void expire_alias(const struct tuple *key, const struct flow *alias, struct expiry_walk *walk)
{
	if ((__s64)(walk->now_ns - alias->last_seen_ns) < ORPHAN_AGE_NS || !is_orphan(key, alias))
		return;
	flow_remove(key);
	walk->done.orphans++;
}

/* Its bytes go from socket to socket, and no packet tells of them. The row goes with the sockets. */
static __always_inline bool is_short_circuited(const struct tuple *key, const struct flow *flow)
{
	return short_circuit && flow->flags & FLOW_SHORT_CIRCUIT && bpf_map_lookup_elem(&short_circuit_connections, key);
}

static __always_inline void keep_flow(const struct flow *flow, struct expiry_walk *walk)
{
	walk->done.masqueraded += !!(flow->flags & FLOW_MASQUERADED);
	walk->done.services += !!(flow->flags & FLOW_SERVICE);
	if (flow_is_charged(flow, walk->settled))
		count_owned(&flow->owner);
}

static __noinline void remove_flow(const struct tuple *key, const struct flow *flow)
{
	struct tuple own_key = *key, alias_key = {};

	if (flow->flags & FLOW_TRANSLATED)
		flow_remove_alias(&own_key, flow, &alias_key);
	flow_remove(&own_key);
}

static long expire_flow(struct bpf_map *map, const struct tuple *key, struct flow *flow, struct expiry_walk *walk)
{
	struct flow_state state;
	__s64 idle_ns;

	if (flow->flags & FLOW_ALIAS) {
		expire_alias(key, flow, walk);
		return 0;
	}
	if (is_short_circuited(key, flow))
		flow->last_seen_ns = walk->now_ns;
	/* Another CPU may have used it after our `now`: less than nothing. */
	idle_ns = walk->now_ns - flow->last_seen_ns;
	state = flow_state(key, flow, walk->settled, &walk->done.kept);
	if (is_idle(idle_ns, state.timeout_s)) {
		state = flow_state(key, flow, walk->settled, &walk->done.expired);
		remove_flow(key, flow);
	} else {
		keep_flow(flow, walk);
	}
	*state.count += 1;
	return 0;
}

static long forget_count(struct bpf_map *map, const struct address *owner, __u64 *counted, void *nothing)
{
	*counted = 0;
	return 0;
}

/* What the programs counted is set right: they know nothing of entries that were pushed out. */
static long take_count(struct bpf_map *map, const struct address *owner, __u64 *flows_of_pod, void *nothing)
{
	const __u64 *counted = bpf_map_lookup_elem(&pod_flows_counted, owner);

	if (counted && *counted) {
		*flows_of_pod = *counted;
		return 0;
	}
	bpf_map_delete_elem(&pod_flows, owner);
	return 0;
}

/* Counts that no owner has any more. */
static long drop_count(struct bpf_map *map, const struct address *owner, __u64 *counted, void *nothing)
{
	if (!*counted)
		bpf_map_delete_elem(&pod_flows_counted, owner);
	return 0;
}

/* Removes what has timed out, and counts the rest. One at a time: the counting is in a map. */
static __always_inline void expire(struct flow_expiry *expiry)
{
	struct expiry_walk walk = {
		.now_ns = bpf_ktime_get_ns(), /* of the same clock; the coarse one is not for this type of program */
	};

	bpf_for_each_map_elem(&pod_flows_counted, forget_count, NULL, 0);
	/* Against the way of a flow from one table to the other, so that it is not seen twice. */
	walk.settled = true;
	bpf_for_each_map_elem(&flows, expire_flow, &walk, 0);
	walk.settled = false;
	bpf_for_each_map_elem(&new_flows, expire_flow, &walk, 0);
	bpf_for_each_map_elem(&pod_flows, take_count, NULL, 0);
	bpf_for_each_map_elem(&pod_flows_counted, drop_count, NULL, 0);
	*expiry = walk.done;
}
