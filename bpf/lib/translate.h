/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the first packet of a flow begins, by where it comes from: a service is chosen, then the node's address given.
 *
 * DROP_NONE: what `flow_find` finds afterwards is in force; nothing found means that nothing is translated.
 */
#pragma once

#include "lib/service.h"

static __always_inline bool pod_is_via_stack(const struct address *address)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, address);

	return pod && pod->flags & POD_VIA_STACK;
}

/* The uplink that the host's routes lead to; NULL: another device, and the host's stack knows what to do there. */
static __noinline const struct uplink *uplink_towards(struct __sk_buff *skb, const struct tuple *tuple)
{
	struct bpf_fib_lookup route = {
		.ifindex = skb->ifindex,
		.l4_protocol = tuple->protocol,
	};
	__u32 ifindex;
	long found;

	if (address_is_v4(&tuple->destination)) {
		route.family = AF_INET;
		route.ipv4_src = address_to_v4(&tuple->source);
		route.ipv4_dst = address_to_v4(&tuple->destination);
	} else {
		route.family = AF_INET6;
		__builtin_memcpy(route.ipv6_src, &tuple->source, sizeof(route.ipv6_src));
		__builtin_memcpy(route.ipv6_dst, &tuple->destination, sizeof(route.ipv6_dst));
	}
	found = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH && found != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return NULL;
	ifindex = route.ifindex;
	return bpf_map_lookup_elem(&uplinks, &ifindex);
}

/* The flow leaves under the device's address. */
static __always_inline enum drop_reason masquerade_as(const struct uplink *uplink, struct flow *flow)
{
	const struct address *address = uplink_address(uplink, &flow->other.destination);

	if (!address)
		return DROP_NO_MASQUERADE_ADDRESS;
	flow->other.source = *address;
	flow->flags |= FLOW_MASQUERADED;
	return DROP_NONE;
}

/* The flow leaves under the address that answers come back to: in a tunnel the node's own, elsewhere the device's. */
static __always_inline enum drop_reason masquerade_as_node(struct __sk_buff *skb, struct flow *flow)
{
	const struct pod_network_settings *settings;
	const struct uplink *uplink;
	struct uplink own = {};
	__u32 only = 0;

	if (destination_kind(&flow->other.destination) == DESTINATION_TUNNEL) {
		settings = bpf_map_lookup_elem(&pod_network_settings, &only);
		if (!settings)
			return DROP_NO_MASQUERADE_ADDRESS;
		own.v4 = settings->node_v4;
		own.v6 = settings->node_v6;
		return masquerade_as(&own, flow);
	}
	uplink = uplink_towards(skb, &flow->other);
	return uplink ? masquerade_as(uplink, flow) : DROP_NO_MASQUERADE_ADDRESS;
}

/* A pod of this node sends. */
__weak __noinline enum drop_reason begin_from_pod(struct __sk_buff *skb, const struct tuple *tuple, const struct pod *pod)
{
	const struct uplink *uplink;
	struct flow_draft *draft;
	enum drop_reason reason;
	__u32 via_stack;

	if (!tuple || !pod)
		return DROP_FLOW_TABLE_FULL;
	draft = draft_of(tuple, &tuple->source);
	if (!draft)
		return DROP_FLOW_TABLE_FULL;
	reason = serve(tuple, pod->netns_cookie, &draft->flow);
	if (reason)
		return reason;
	via_stack = pod->flags & POD_VIA_STACK || pod_is_via_stack(&draft->flow.other.destination) ? FLOW_VIA_STACK : 0;
	if (!(pod->flags & POD_OBSERVED) && masquerade_is_wanted(&draft->flow.other.destination)) {
		uplink = uplink_towards(skb, &draft->flow.other);
		reason = uplink ? masquerade_as(uplink, &draft->flow) : DROP_NONE;
		if (reason)
			return reason;
	}
	if (draft->flow.flags) {
		draft->flow.flags |= via_stack;
		return translation_begin(skb, tuple);
	}
	return pod->flags & POD_OBSERVED ? DROP_NONE : flow_begin(tuple, &tuple->source, via_stack);
}

/* Somebody outside, or the host itself, sends to what is no pod of this node: perhaps a frontend. A backend that is a pod of
 * this node answers through us; any other needs to be told an address of this node to answer to.
 */
__weak __noinline enum drop_reason begin_to_frontend(struct __sk_buff *skb, const struct tuple *tuple)
{
	struct address nobody = {};
	struct flow_draft *draft;
	enum drop_reason reason;
	const struct pod *pod;

	if (!tuple)
		return DROP_FLOW_TABLE_FULL;
	draft = draft_of(tuple, &nobody);
	if (!draft)
		return DROP_FLOW_TABLE_FULL;
	reason = serve(tuple, client_outside(&tuple->source), &draft->flow);
	if (reason || !draft->flow.flags)
		return reason;
	pod = bpf_map_lookup_elem(&pods, &draft->flow.other.destination);
	if (pod) {
		draft->flow.owner = draft->alias.owner = draft->flow.other.destination;
		draft->flow.flags |= FLOW_FROM_OUTSIDE | (pod->flags & POD_VIA_STACK ? FLOW_VIA_STACK : 0);
	} else {
		reason = masquerade_as_node(skb, &draft->flow);
	}
	return reason ? reason : translation_begin(skb, tuple);
}

/* A packet of a pod that the host's stack sends out of an uplink, and of a flow that nobody knows. Its answers are to go
 * through the stack, too.
 */
static __noinline enum drop_reason begin_after_stack(struct __sk_buff *skb, const struct tuple *tuple)
{
	struct flow_draft *draft = draft_of(tuple, &tuple->source);
	__u32 ifindex = skb->ifindex;
	const struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);
	enum drop_reason reason;

	if (!draft)
		return DROP_FLOW_TABLE_FULL;
	if (!uplink || !masquerade_is_wanted(&tuple->destination))
		return DROP_NONE;
	draft->flow.flags = FLOW_VIA_STACK;
	reason = masquerade_as(uplink, &draft->flow);
	return reason ? reason : translation_begin(skb, tuple);
}
