/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Nobody speaks as another: which source addresses a packet may have, by where it came in. */
#pragma once

#include "lib/destination.h"
#include "lib/packet.h"
#include "maps/drops.h"

/* What workloads without an identity are in a tunnel, and all to nodes that take none; and what nodes are. */
#define IDENTITY_UNMANAGED   3
#define IDENTITY_REMOTE_NODE 6

/* The pod whose link this is and whose address the packet has; NULL: it has not. */
static __always_inline const struct pod *pod_speaking(const struct __sk_buff *skb, const struct address *source)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, source);

	return pod && pod->ifindex == skb->ifindex ? pod : NULL;
}

/* Whether a packet that no pod of ours may send is another plugin's affair. */
static __noinline bool is_observed_link(const struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;

	return bpf_map_lookup_elem(&observed_links, &ifindex);
}

/* From an uplink. */
static __noinline enum drop_reason check_source_outside(const struct address *source)
{
	const struct destination *behind = destination_of(source);

	if (!behind)
		return DROP_NONE;
	/* The stack refuses the node's own address here, in IPv4; what goes past the stack must be refused by us. */
	if (behind->kind == DESTINATION_LOCAL_PODS || behind->kind == DESTINATION_HOST)
		return DROP_SOURCE_LOCAL_POD;
	return behind->kind == DESTINATION_TUNNEL ? DROP_SOURCE_NOT_NATIVE : DROP_NONE;
}

static __always_inline bool is_identity_of(const struct destination *behind, __u32 identity)
{
	if (behind->kind == DESTINATION_NODE)
		return identity == IDENTITY_REMOTE_NODE;
	return identity == IDENTITY_UNMANAGED ||
	       (identity >= behind->identity_first && identity <= behind->identity_last && identity);
}

/* From the tunnel: `outer` is the node that sent it, `source` who it says that speaks. */
static __noinline enum drop_reason check_source_tunnel(const struct address *source, const struct address *outer,
						       __u32 identity)
{
	const struct destination *behind = destination_of(source), *node;

	if (behind && (behind->kind == DESTINATION_TUNNEL || behind->kind == DESTINATION_NODE) &&
	    address_equal(&behind->tunnel, outer))
		return is_identity_of(behind, identity) ? DROP_NONE : DROP_TUNNEL_IDENTITY;
	node = destination_of(outer);
	return node && node->kind == DESTINATION_NODE ? DROP_TUNNEL_SOURCE : DROP_TUNNEL_UNKNOWN_NODE;
}
