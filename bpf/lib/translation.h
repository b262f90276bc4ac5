/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two entries of a translated flow, made and removed as one. */
#pragma once

#include "lib/masquerade.h"

/* A flow that is to be translated, as yet into itself. NULL never happens: the map has that entry. */
static __always_inline struct flow_draft *draft_of(const struct tuple *tuple, const struct address *owner)
{
	__u32 only = 0;
	struct flow_draft *draft = bpf_map_lookup_elem(&flow_drafts, &only);

	if (!draft)
		return NULL;
	*draft = (struct flow_draft){};
	draft->flow.other = draft->alias.other = *tuple;
	draft->flow.owner = draft->alias.owner = *owner;
	draft->alias.flags = FLOW_ALIAS;
	return draft;
}

/* Another CPU may have begun the very same flow just now. */
static __always_inline bool is_begun(const struct flow_draft *draft)
{
	bool settled;

	return flow_lookup(&draft->key, &settled);
}

/* Other nodes believe what comes to their tunnel from this node's address: nobody else speaks to it under that. */
static __noinline bool is_for_a_tunnel(const struct tuple *tuple)
{
	const struct pod_network_settings *settings;
	__u32 only = 0;

	if (tuple->protocol != IPPROTO_UDP || tuple->destination_port != bpf_htons(tunnel_port))
		return false;
	settings = bpf_map_lookup_elem(&pod_network_settings, &only);
	return settings && settings->tunnel_ifindex;
}

/* Enters a flow with the translation that the draft says; the source port there is a wish. DROP_NONE: `flow_find` finds it
 * now, made by us or by another CPU.
 */
__weak __noinline enum drop_reason translation_begin(struct __sk_buff *skb, const struct tuple *tuple)
{
	/* Not handed to us: see claim(). */
	struct flow_draft *draft = flow_draft();
	bool reversed, is_charged;
	struct flow *flow;

	if (!tuple || !draft)
		return DROP_FLOW_TABLE_FULL;
	flow = &draft->flow;
	reversed = draft_key(tuple, &draft->key);
	if (flow->flags & FLOW_MASQUERADED && is_for_a_tunnel(&flow->other))
		return DROP_TUNNEL_SOURCE;
	is_charged = flow_is_charged(flow, false);
	if (is_charged && !flow_charge(&flow->owner)) {
		count_pod_network(POD_NETWORK_FLOWS_REFUSED);
		return DROP_FLOW_QUOTA;
	}
	flow->flags |= FLOW_TRANSLATED;
	draft->of_node = !!(flow->flags & FLOW_MASQUERADED);
	if (!claim_port(skb, draft)) {
		if (is_charged)
			flow_uncharge(&flow->owner);
		if (is_begun(draft))
			return DROP_NONE;
		count_pod_network(POD_NETWORK_FLOWS_REFUSED);
		return DROP_NO_MASQUERADE_PORT;
	}
	if (flow_insert_at(&draft->key, reversed, flow)) {
		count_pod_network(POD_NETWORK_FLOWS_CREATED);
		return DROP_NONE;
	}
	flow_remove(&draft->alias_key);
	if (is_charged)
		flow_uncharge(&flow->owner);
	return is_begun(draft) ? DROP_NONE : DROP_FLOW_TABLE_FULL;
}
