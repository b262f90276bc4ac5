/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What comes to a pod, or to an address of the node or a service, past the host's stack: from an uplink or a tunnel. */
#pragma once

#include "lib/carry.h"
#include "lib/translate.h"

/* Whether a service is to be translated here. From outside, node ports and the like are kube-proxy's, with all that it enforces for
 * them: externalTrafficPolicy, loadBalancerSourceRanges.
 */
static __noinline bool is_frontend(const struct tuple *tuple, bool inward)
{
	struct endpoint frontend = endpoint_of(&tuple->destination, tuple->destination_port, tuple->protocol);
	const struct service *service = bpf_map_lookup_elem(&frontends, &frontend);

	return service && !(inward && service->flags & SERVICE_EXTERNAL);
}

/* Not to a pod of this node, and from none. Of our concern are answers to what was masqueraded, and service addresses. */
static __noinline int to_node(struct __sk_buff *skb, struct work *work)
{
	enum drop_reason reason;
	struct flow_view view;
	struct packet *packet;
	bool answers, inward;

	packet = &work->packet;
	inward = work->origin.hook == HOOK_FROM_OUTSIDE;
	answers = inward && is_masquerade_port(packet->tuple.destination_port);
	if (!answers && !is_frontend(&packet->tuple, inward))
		return TC_ACT_OK;
	if (!flow_of(packet, &view)) {
		if (!packet->begins)
			return TC_ACT_OK;
		reason = begin_to_frontend(skb, &packet->tuple);
		if (reason)
			return drop(skb, reason, inward ? DROP_TO_POD : DROP_FROM_POD);
		if (!flow_find_begun(&view))
			return TC_ACT_OK;
	}
	return carry(skb, work, &view, false);
}

/* Whether a packet may be here from where it comes. */
static __noinline enum drop_reason check_source(const struct work *work)
{
	const struct address *source = &work->packet.tuple.source;
	const struct origin *origin = &work->origin;

	if (address_is_zero(&origin->outer))
		return check_source_outside(source);
	return check_source_tunnel(source, &origin->outer, origin->identity);
}

static __noinline int to_pod_from_outside(struct __sk_buff *skb, struct work *work, const struct pod *pod)
{
	struct packet *packet = &work->packet;
	bool whole = packet->kind == PACKET_FLOW && !packet->fragmented, known = false;
	enum drop_reason reason;
	struct flow_view view;

	if (whole) {
		known = flow_find(&packet->tuple, &view);
		if (known && recall_way(packet, &view, &work->origin, &work->way))
			return carry_on(skb, work, &view);
	}
	reason = check_source(work);
	if (reason)
		return drop(skb, reason, DROP_TO_POD);
	if (packet->kind == PACKET_ICMP_ERROR)
		return carry_error(skb, work);
	if (packet->kind == PACKET_OTHER || !complete(packet))
		return TC_ACT_OK;
	if (!whole)
		known = flow_find(&packet->tuple, &view);
	if (!known || !flow_goes_on(packet, &view)) {
		if (!packet->begins || pod->flags & POD_OBSERVED)
			return leave_to_stack();
		reason = flow_begin(&packet->tuple, &packet->tuple.destination, FLOW_FROM_OUTSIDE);
		if (reason)
			return drop(skb, reason, DROP_TO_POD);
		if (!flow_find_begun(&view))
			return leave_to_stack();
	}
	return carry(skb, work, &view, false);
}

static __noinline int to_node_from_outside(struct __sk_buff *skb, struct work *work)
{
	struct packet *packet = &work->packet;
	enum drop_reason reason = check_source(work);

	if (reason)
		return drop(skb, reason, DROP_TO_POD);
	if (packet->kind == PACKET_ICMP_ERROR)
		return carry_error(skb, work);
	if (packet->kind == PACKET_OTHER || !complete(packet))
		return TC_ACT_OK;
	return to_node(skb, work);
}

/* From an uplink or through a tunnel. */
static __always_inline int from_outside(struct __sk_buff *skb, struct work *work)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, &work->packet.tuple.destination);

	return pod ? to_pod_from_outside(skb, work, pod) : to_node_from_outside(skb, work);
}
