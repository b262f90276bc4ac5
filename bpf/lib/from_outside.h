/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What comes to a pod, or to an address of the node or a service, past the host's stack: from an uplink or a tunnel. */
#pragma once

#include "lib/carry.h"
#include "lib/translate.h"

static __noinline bool is_frontend(const struct tuple *tuple)
{
	struct endpoint frontend = endpoint_of(&tuple->destination, tuple->destination_port, tuple->protocol);

	return bpf_map_lookup_elem(&frontends, &frontend);
}

/* Not to a pod of this node, and from none. Of our concern are answers to what was masqueraded, and service addresses. */
static __noinline int to_node(struct __sk_buff *skb, struct work *work, enum hook hook)
{
	enum drop_reason reason;
	struct flow_view view;
	struct packet *packet;
	bool answers;

	packet = &work->packet;
	answers = hook == HOOK_FROM_OUTSIDE && is_masquerade_port(packet->tuple.destination_port);
	if (!answers && !is_frontend(&packet->tuple))
		return TC_ACT_OK;
	if (!flow_of(packet, &view)) {
		if (!packet->begins)
			return TC_ACT_OK;
		reason = begin_to_frontend(skb, &packet->tuple);
		if (reason)
			return drop(skb, reason, hook == HOOK_FROM_OUTSIDE ? DROP_TO_POD : DROP_FROM_POD);
		if (!flow_find(&packet->tuple, &view))
			return TC_ACT_OK;
	}
	return carry(skb, work, &view, false, hook);
}

static __noinline int to_pod_from_outside(struct __sk_buff *skb, struct work *work, const struct pod *pod)
{
	enum drop_reason reason;
	struct packet *packet;
	struct flow_view view;

	packet = &work->packet;
	if (!flow_of(packet, &view)) {
		if (!packet->begins || pod->flags & POD_OBSERVED)
			return leave_to_stack();
		reason = flow_begin(&packet->tuple, &packet->tuple.destination, FLOW_FROM_OUTSIDE);
		if (reason)
			return drop(skb, reason, DROP_TO_POD);
		if (!flow_find(&packet->tuple, &view))
			return leave_to_stack();
	}
	return carry(skb, work, &view, false, HOOK_FROM_OUTSIDE);
}

/* A packet whose source has been found right. */
static __noinline int from_outside(struct __sk_buff *skb, struct work *work)
{
	struct packet *packet = &work->packet;
	const struct pod *pod;

	if (packet->kind == PACKET_ICMP_ERROR)
		return carry_error(skb, work, HOOK_FROM_OUTSIDE);
	if (packet->kind == PACKET_OTHER || !complete(packet))
		return TC_ACT_OK;
	pod = bpf_map_lookup_elem(&pods, &packet->tuple.destination);
	return pod ? to_pod_from_outside(skb, work, pod) : to_node(skb, work, HOOK_FROM_OUTSIDE);
}
