/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a program works on: too large for the 512 bytes of stack that it shares with all it calls. */
#pragma once

#include "lib/flow.h"

/* Where the packet is when its way is looked for. */
enum hook {
	HOOK_FROM_POD,
	HOOK_FROM_OUTSIDE,
	HOOK_EGRESS,
};

/* Where a packet comes from. `outer`, `node` (the same in IPv4), `identity`: of the tunnel that it came through; zero: none. */
struct origin {
	struct address outer;
	enum hook hook;
	__u32 ifindex; /* 0: from a node that a kept way has no room for (IPv6) */
	__be32 node;
	__u32 identity;
	__u32 generation; /* read before anything that a way is found by */
	bool via_stack;	  /* the packet may not leave the host's stack out */
	__u8 pad[3];
};

struct work {
	__u64 route[8]; /* a struct bpf_fib_lookup, whose unions no map may name */
	struct packet packet;
	struct tuple to; /* between which ends the packet will be */
	struct origin origin;
	struct way way;
	__u32 pad;
};

/* One for each CPU: no program of ours runs within another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} pod_network_work SEC(".maps") __weak;

static __always_inline __u32 way_generation_now(void)
{
	__u32 only = 0;
	const __u32 *generation = bpf_map_lookup_elem(&way_generation, &only);

	return generation ? *generation : 0;
}

/* Always there. */
static __always_inline struct work *the_work(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&pod_network_work, &only);
}

static __always_inline struct work *begin_work(const struct __sk_buff *skb, enum hook hook)
{
	struct work *work = the_work();

	if (!work)
		return NULL;
	work->origin = (struct origin){
		.hook = hook,
		.ifindex = skb->ifindex,
		.generation = hook == HOOK_EGRESS ? 0 : way_generation_now(),
	};
	return work;
}
