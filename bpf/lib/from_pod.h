/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a pod of this node sends. */
#pragma once

#include "lib/admit.h"
#include "lib/carry.h"
#include "lib/translate.h"

static __always_inline int from_pod_flow(struct __sk_buff *skb, struct work *work, const struct pod *pod,
					 struct flow_view *view, bool known)
{
	struct packet *packet = &work->packet;
	enum drop_reason reason;

	work->origin.via_stack = pod->flags & (POD_VIA_STACK | POD_OBSERVED);
	if (!known || !flow_goes_on(packet, view)) {
		/* Of a connection older than our programs, or one that others carry. */
		if (!packet->begins)
			return leave_to_stack();
		reason = begin_from_pod(skb, &packet->tuple, pod);
		if (reason)
			return drop(skb, reason, DROP_FROM_POD);
		if (!flow_find_begun(view))
			return leave_to_stack();
	}
	if (short_circuit && pod->flags & POD_SHORT_CIRCUIT && is_plain_connection(packet, view)) {
		flow_mark(view->entry, FLOW_SHORT_CIRCUIT);
		consider(skb, packet, view);
	}
	return carry(skb, work, view, false);
}

static __always_inline int from_pod(struct __sk_buff *skb, struct work *work)
{
	struct packet *packet = &work->packet;
	bool whole = packet->kind == PACKET_FLOW && !packet->fragmented, known = false;
	struct flow_view view;
	const struct pod *pod;

	if (whole) {
		known = flow_find(&packet->tuple, &view);
		if (known && skb->pkt_type == FRAME_FOR_HOST && recall_way(packet, &view, &work->origin, &work->way)) {
			if (short_circuit && view.entry->flags & FLOW_SHORT_CIRCUIT)
				consider(skb, packet, &view);
			return carry_on(skb, work, &view);
		}
	}
	pod = pod_speaking(skb, &packet->tuple.source);
	if (!pod)
		return is_observed_link(skb) ? leave_to_stack() : drop(skb, DROP_SOURCE_NOT_THE_PODS, DROP_FROM_POD);
	/* Multicast and broadcast, and frames for nobody; a bridge that another plugin made has an address of its own. */
	if (skb->pkt_type != FRAME_FOR_HOST && !(pod->flags & POD_OBSERVED))
		return leave_to_stack();
	if (packet->kind == PACKET_ICMP_ERROR)
		return carry_error(skb, work);
	if (packet->kind == PACKET_OTHER)
		return leave_to_stack();
	if (complete(packet)) {
		if (!whole)
			known = flow_find(&packet->tuple, &view);
		return from_pod_flow(skb, work, pod, &view, known);
	}
	if (masquerade_is_wanted(&packet->tuple.destination) && !(pod->flags & POD_OBSERVED))
		return drop(skb, DROP_FRAGMENT_UNKNOWN, DROP_FROM_POD);
	return leave_to_stack();
}
