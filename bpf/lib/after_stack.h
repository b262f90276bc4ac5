/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the host's stack sends to a pod, out of an uplink or into a tunnel: given the ends that it could not have before. */
#pragma once

#include "lib/carry.h"
#include "lib/translate.h"

/* A new flow that comes to a pod through the host's stack: its answers go back through it, because whoever sent it there
 * (portmap, kube-proxy, the host itself) is to see them.
 */
static __always_inline void begin_through_stack(const struct tuple *tuple)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, &tuple->destination);
	bool of_pod = bpf_map_lookup_elem(&pods, &tuple->source);

	/* It is here already, so a quota that is used up can only leave it unknown, and then its answers do not leave. */
	if (pod && !(pod->flags & POD_OBSERVED))
		flow_begin(tuple, of_pod ? &tuple->source : &tuple->destination,
			   FLOW_VIA_STACK | (of_pod ? 0 : FLOW_FROM_OUTSIDE));
}

/* A connection that is older than our tables, or was forgotten by them, and that others made with the pod itself: it answers
 * them in its own name, which nobody would let out of an uplink else.
 */
static __always_inline bool goes_on_from_outside(const struct packet *packet)
{
	return packet->tcp_flags & TCP_ACK && !bpf_map_lookup_elem(&pods, &packet->tuple.source);
}

static __noinline int to_pod(struct __sk_buff *skb, struct work *work)
{
	struct packet *packet = &work->packet;
	struct flow_view view;
	bool translated;
	__u32 flags;

	if (!complete(packet))
		return TC_ACT_OK;
	if (!flow_of(packet, &view)) {
		if (packet->begins || goes_on_from_outside(packet))
			begin_through_stack(&packet->tuple);
		return TC_ACT_OK;
	}
	/* A connection that is begun anew between known ends, and now comes by here. */
	if (view.place == FLOW_PLACE_SENT && packet->begins && packet->tcp_flags)
		flow_mark(view.entry, FLOW_VIA_STACK);
	translated = view.place == FLOW_PLACE_ANSWERED && flow_translation(&view, &work->to);
	flow_seen(packet, &view, &flags);
	if (translated && rewrite(skb, packet, &work->to))
		return drop(skb, DROP_MALFORMED, DROP_TO_POD);
	return TC_ACT_OK;
}

/* What nobody knows a translation of does not leave in the pod's own name where that is to stay within the cluster. */
static __always_inline int leave_unknown(struct __sk_buff *skb, const struct packet *packet, const struct pod *pod)
{
	if (pod->flags & POD_OBSERVED || !masquerade_is_wanted(&packet->tuple.destination))
		return TC_ACT_OK;
	return drop(skb, packet->kind == PACKET_FRAGMENT ? DROP_FRAGMENT_UNKNOWN : DROP_NO_FLOW, DROP_FROM_POD);
}

/* A pod's packet in its own name, which is given that of the node where that is wanted. */
static __noinline int masquerade_after_stack(struct __sk_buff *skb, struct work *work, const struct pod *pod)
{
	struct packet *packet = &work->packet;
	enum drop_reason reason;
	struct flow_view view;

	if (!flow_of(packet, &view)) {
		if (!packet->begins || pod->flags & POD_OBSERVED)
			return leave_unknown(skb, packet, pod);
		reason = begin_after_stack(skb, &packet->tuple);
		if (reason)
			return drop(skb, reason, DROP_FROM_POD);
		if (!flow_find(&packet->tuple, &view))
			return TC_ACT_OK;
	}
	if (!flow_translation(&view, &work->to)) {
		const struct destination *behind = destination_of(&packet->tuple.destination);

		/* In the pod's own name: a node takes it from the tunnel only, see find_way. */
		return behind && behind->kind == DESTINATION_NODE ? carry(skb, work, &view, false) : TC_ACT_OK;
	}
	/* Elsewhere may be on another way, or on another link. */
	if (!address_equal(&packet->tuple.destination, &work->to.destination))
		return carry(skb, work, &view, false);
	return rewrite(skb, packet, &work->to) ? drop(skb, DROP_MALFORMED, DROP_FROM_POD) : TC_ACT_OK;
}

static __always_inline int pod_to_uplink(struct __sk_buff *skb, struct work *work, const struct pod *pod)
{
	struct packet *packet = &work->packet;

	if (packet->kind != PACKET_OTHER && complete(packet))
		return masquerade_after_stack(skb, work, pod);
	return leave_unknown(skb, packet, pod);
}

/* What a pod reports about a flow that goes out in its own name does so, too. */
static __noinline int error_to_uplink(struct __sk_buff *skb, struct work *work)
{
	struct packet *packet = &work->packet;
	const struct pod *pod = bpf_map_lookup_elem(&pods, &packet->tuple.source);

	switch (icmp_error_translate(skb, packet, pod)) {
	case ICMP_ERROR_BROKEN:
		return drop(skb, DROP_MALFORMED, DROP_FROM_POD);
	case ICMP_ERROR_UNKNOWN:
		return pod ? leave_unknown(skb, packet, pod) : TC_ACT_OK;
	default:
		return TC_ACT_OK;
	}
}

/* False: the packet is broken. */
static __noinline bool translate_after_stack(struct __sk_buff *skb, struct work *work)
{
	struct packet *packet = &work->packet;
	struct flow_view view;

	if (!complete(packet) || !flow_find(&packet->tuple, &view) || view.place != FLOW_PLACE_ANSWERED)
		return true;
	return !flow_translation(&view, &work->to) || !rewrite(skb, packet, &work->to);
}
