/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet whose flow is known: entered in its state, translated, and sent its way. */
#pragma once

#include "lib/deliver.h"
#include "lib/flow_state.h"
#include "lib/fragment.h"
#include "lib/icmp_error.h"
#include "lib/kept_way.h"
#include "lib/rewrite.h"

/* 1: programs of another build, which know flows that ours do not know yet, are behind those for what comes from outside. */
const volatile __u32 beside_another = 0;

static __always_inline bool is_address_of_host(const struct address *address)
{
	const struct destination *destination = destination_of(address);

	return destination && destination->kind == DESTINATION_HOST;
}

/* Whether a packet may be given its new ends before the host's stack routes it. The stack refuses one that comes in from the
 * address of the node itself, and may refuse one that comes in where its source is not reached. So a new source is given
 * after it (to_pod, to_uplink), from the same entry; but what ends on the host has no such place.
 */
static __noinline bool may_precede_stack(const struct packet *packet, const struct tuple *to, enum hook hook)
{
	if (hook == HOOK_EGRESS || address_equal(&packet->tuple.source, &to->source))
		return true;
	return hook == HOOK_FROM_POD ? is_address_of_host(&to->destination) : !is_address_of_host(&to->source);
}

/* `kept`: the way in `work` was recalled, and is not to be found. */
static __noinline int carry(struct __sk_buff *skb, struct work *work, struct flow_view *view, bool kept)
{
	bool translated = flow_translation(view, &work->to);
	struct origin *origin = &work->origin;
	struct packet *packet = &work->packet;
	enum drop_direction direction;
	struct way *way = &work->way;
	enum drop_reason reason;
	__u32 flags = 0;

	direction = origin->hook == HOOK_FROM_OUTSIDE ? DROP_TO_POD : DROP_FROM_POD;
	if (!translated)
		work->to = packet->tuple;
	reason = flow_seen(packet, view, &flags);
	/* Of the two entries of a flow one was there before the other. */
	if (reason == DROP_NO_FLOW && beside_another && origin->hook == HOOK_FROM_OUTSIDE)
		return TC_ACT_OK;
	if (reason)
		return drop(skb, reason, direction);
	/* Behind the stack there is nothing left to go around. */
	if (origin->hook == HOOK_EGRESS)
		origin->via_stack = false;
	else if (flags & FLOW_VIA_STACK)
		origin->via_stack = true;
	if (!kept || origin->via_stack) {
		find_way(skb);
		keep_way(view, origin, way);
	}
	if (way->kind == WAY_NOWHERE)
		return drop(skb, DROP_NO_SUCH_POD, direction);
	if (translated && (way->kind != WAY_STACK || may_precede_stack(packet, &work->to, origin->hook)) &&
	    rewrite(skb, packet, &work->to))
		return drop(skb, DROP_MALFORMED, direction);
	return way->kind == WAY_STACK ? leave_to_stack() : go(skb, work);
}

/* A packet whose way was recalled: nearly all of them change nothing about their flow, and are what they shall be. */
static __always_inline int carry_on(struct __sk_buff *skb, struct work *work, struct flow_view *view)
{
	if (view->settled && !(view->entry->flags & (FLOW_ALIAS | FLOW_TRANSLATED | FLOW_RESET)) &&
	    !(work->packet.tcp_flags & (TCP_FIN | TCP_RST)))
		return go(skb, work);
	return carry(skb, work, view, true);
}

/* An ICMP error about a flow that is translated goes the way that its new destination asks for. */
static __noinline int carry_error(struct __sk_buff *skb, struct work *work)
{
	struct origin *origin;
	struct packet *packet;
	struct way *way;
	bool of_pod;

	packet = &work->packet;
	origin = &work->origin;
	way = &work->way;
	of_pod = origin->hook == HOOK_FROM_POD;

	switch (icmp_error_translate(skb, packet, of_pod)) {
	case ICMP_ERROR_UNKNOWN:
	case ICMP_ERROR_AS_IT_IS:
		return leave_to_stack();
	case ICMP_ERROR_BROKEN:
		return drop(skb, DROP_MALFORMED, of_pod ? DROP_FROM_POD : DROP_TO_POD);
	case ICMP_ERROR_TRANSLATED:
		break;
	}
	work->to = packet->tuple;
	find_way(skb);
	return way->kind == WAY_STACK || way->kind == WAY_NOWHERE ? leave_to_stack() : go(skb, work);
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
