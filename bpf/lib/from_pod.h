/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a pod of this node sends. */
#pragma once

#include "lib/carry.h"
#include "lib/translate.h"

static __always_inline int from_pod_flow(struct __sk_buff *skb, struct work *work, const struct pod *pod)
{
	bool via_stack = pod->flags & (POD_VIA_STACK | POD_OBSERVED);
	struct packet *packet = &work->packet;
	enum drop_reason reason;
	struct flow_view view;

	if (!flow_of(packet, &view)) {
		/* Of a connection older than our programs, or one that others carry. */
		if (!packet->begins)
			return leave_to_stack();
		reason = begin_from_pod(skb, &packet->tuple, pod);
		if (reason)
			return drop(skb, reason, DROP_FROM_POD);
		if (!flow_find(&packet->tuple, &view))
			return leave_to_stack();
	}
	return carry(skb, work, &view, via_stack, HOOK_FROM_POD);
}

static __always_inline int from_pod(struct __sk_buff *skb, struct work *work)
{
	struct packet *packet = &work->packet;
	const struct pod *pod = pod_speaking(skb, &packet->tuple.source);

	if (!pod)
		return is_observed_link(skb) ? leave_to_stack() : drop(skb, DROP_SOURCE_NOT_THE_PODS, DROP_FROM_POD);
	/* Multicast and broadcast, and frames for nobody; a bridge that another plugin made has an address of its own. */
	if (skb->pkt_type != FRAME_FOR_HOST && !(pod->flags & POD_OBSERVED))
		return leave_to_stack();
	if (packet->kind == PACKET_ICMP_ERROR)
		return carry_error(skb, work, HOOK_FROM_POD);
	if (packet->kind == PACKET_OTHER)
		return leave_to_stack();
	if (complete(packet))
		return from_pod_flow(skb, work, pod);
	if (masquerade_is_wanted(&packet->tuple.destination) && !(pod->flags & POD_OBSERVED))
		return drop(skb, DROP_FRAGMENT_UNKNOWN, DROP_FROM_POD);
	return leave_to_stack();
}
