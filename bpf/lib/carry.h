/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet whose flow is known: entered in its state, translated, and sent its way. */
#pragma once

#include "lib/deliver.h"
#include "lib/flow_state.h"
#include "lib/fragment.h"
#include "lib/icmp_error.h"
#include "lib/rewrite.h"

/* What a program works on: too large for the 512 bytes of stack that it shares with all it calls. */
struct work {
	struct packet packet;
	struct tuple to; /* between which ends the packet will be */
	struct way way;
};

/* One for each CPU: no program of ours runs within another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} pod_network_work SEC(".maps") __weak;

/* Always there. */
static __always_inline struct work *begin_work(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&pod_network_work, &only);
}

static __always_inline bool is_address_of_host(const struct address *address)
{
	const struct destination *destination = destination_of(address);

	return destination && destination->kind == DESTINATION_HOST;
}

/* Whether a packet may be given its new ends before the host's stack routes it. The stack refuses one that comes in from the
 * address of the node itself, and may refuse one that comes in where its source is not reached. So a new source is given
 * after it (to_pod, to_uplink), from the same entry; but what ends on the host has no such place.
 */
static __always_inline bool may_precede_stack(const struct packet *packet, const struct tuple *to, enum hook hook)
{
	if (hook == HOOK_EGRESS || address_equal(&packet->tuple.source, &to->source))
		return true;
	return hook == HOOK_FROM_POD ? is_address_of_host(&to->destination) : !is_address_of_host(&to->source);
}

static __noinline int carry(struct __sk_buff *skb, struct work *work, const struct flow_view *view, bool via_stack,
			    enum hook hook)
{
	enum drop_direction direction = hook == HOOK_FROM_OUTSIDE ? DROP_TO_POD : DROP_FROM_POD;
	bool translated = flow_translation(view, &work->to);
	struct packet *packet = &work->packet;
	struct way *way = &work->way;
	enum drop_reason reason;
	__u32 flags = 0;

	if (!translated)
		work->to = packet->tuple;
	reason = flow_seen(packet, view, &flags);
	if (reason)
		return drop(skb, reason, direction);
	way->hook = hook;
	/* Behind the stack there is nothing left to go around. */
	way->via_stack = hook != HOOK_EGRESS && (via_stack || flags & FLOW_VIA_STACK);
	find_way(skb, packet, &work->to, way);
	if (way->kind == WAY_NOWHERE)
		return drop(skb, DROP_NO_SUCH_POD, direction);
	if (translated && (way->kind != WAY_STACK || may_precede_stack(packet, &work->to, hook)) &&
	    rewrite(skb, packet, &work->to))
		return drop(skb, DROP_MALFORMED, direction);
	return way->kind == WAY_STACK ? leave_to_stack() : go(skb, packet, way);
}

/* An ICMP error about a flow that is translated goes the way that its new destination asks for. */
static __noinline int carry_error(struct __sk_buff *skb, struct work *work, enum hook hook)
{
	struct packet *packet;
	struct way *way;

	packet = &work->packet;
	way = &work->way;

	switch (icmp_error_translate(skb, packet, hook == HOOK_FROM_POD)) {
	case ICMP_ERROR_UNKNOWN:
	case ICMP_ERROR_AS_IT_IS:
		return leave_to_stack();
	case ICMP_ERROR_BROKEN:
		return drop(skb, DROP_MALFORMED, hook == HOOK_FROM_POD ? DROP_FROM_POD : DROP_TO_POD);
	case ICMP_ERROR_TRANSLATED:
		break;
	}
	way->hook = hook;
	way->via_stack = false;
	find_way(skb, packet, &packet->tuple, way);
	return way->kind == WAY_STACK || way->kind == WAY_NOWHERE ? leave_to_stack() : go(skb, packet, way);
}

/* Behind the stack an error only has to be put right. */
static __noinline int translate_error(struct __sk_buff *skb, struct work *work)
{
	bool of_pod;

	of_pod = bpf_map_lookup_elem(&pods, &work->packet.tuple.source);

	if (icmp_error_translate(skb, &work->packet, of_pod) == ICMP_ERROR_BROKEN)
		return drop(skb, DROP_MALFORMED, DROP_TO_POD);
	return TC_ACT_OK;
}

/* The ports of a fragment: a first one leaves them for the later ones. False: they are not known. */
static __always_inline bool complete(struct packet *packet)
{
	if (packet->kind == PACKET_FRAGMENT)
		return fragment_complete(packet);
	if (packet->fragmented)
		fragment_remember(packet);
	return true;
}
