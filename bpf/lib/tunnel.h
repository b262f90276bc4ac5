/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What stands outside a packet in a tunnel: which node it is from or for, and the number of who speaks. */
#pragma once

#include "lib/rewrite.h"
#include "lib/spoof.h"
#include "lib/way.h"

/* Whether the packet is one around another, from a tunnel to this node: what is in it comes by again, and so does the node
 * that sent it.
 */
static __always_inline bool is_for_tunnel(const struct packet *packet)
{
	__u32 only = 0;
	const struct pod_network_settings *settings;

	if (packet->kind != PACKET_FLOW || packet->tuple.protocol != IPPROTO_UDP ||
	    packet->tuple.destination_port != bpf_htons(tunnel_port))
		return false;
	settings = bpf_map_lookup_elem(&pod_network_settings, &only);
	return settings && settings->tunnel_ifindex &&
	       (address_equal(&packet->tuple.destination, &settings->node_v4) ||
		address_equal(&packet->tuple.destination, &settings->node_v6));
}

/* The node that sent the packet, and the number of who speaks. False: there is no tunnel about it. */
static __noinline bool tunnel_source(struct __sk_buff *skb, struct origin *origin)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
		/* The only address of a tunnel that is in host order: include/uapi/linux/bpf.h. */
		origin->node = bpf_htonl(key.remote_ipv4);
		origin->outer = address_v4(origin->node);
	} else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6)) {
		__builtin_memcpy(&origin->outer, key.remote_ipv6, sizeof(origin->outer));
		origin->ifindex = 0;
	} else {
		return false;
	}
	origin->identity = key.tunnel_id;
	return true;
}

/* Addresses the tunnel: to the node that has the destination, from this node's own address. */
static __noinline enum drop_reason enter_tunnel(struct __sk_buff *skb, const struct tuple *tuple)
{
	const struct destination *behind = destination_of(&tuple->destination);
	const struct pod_network_settings *settings;
	struct bpf_tunnel_key key = {
		.tunnel_ttl = TUNNEL_TTL,
	};
	__u32 only = 0, flags;

	settings = bpf_map_lookup_elem(&pod_network_settings, &only);
	if (!settings || !behind || (behind->kind != DESTINATION_TUNNEL && behind->kind != DESTINATION_NODE))
		return DROP_TUNNEL_UNKNOWN_NODE;
	key.tunnel_id = identity_for(behind, &tuple->source);
	if (!key.tunnel_id)
		return DROP_TUNNEL_SOURCE;
	if (address_is_v4(&behind->tunnel)) {
		key.remote_ipv4 = bpf_ntohl(address_to_v4(&behind->tunnel));
		key.local_ipv4 = bpf_ntohl(address_to_v4(&settings->node_v4));
		flags = BPF_F_ZERO_CSUM_TX;
	} else {
		__builtin_memcpy(key.remote_ipv6, &behind->tunnel, sizeof(key.remote_ipv6));
		__builtin_memcpy(key.local_ipv6, &settings->node_v6, sizeof(key.local_ipv6));
		flags = BPF_F_TUNINFO_IPV6;
	}
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ? DROP_TUNNEL_UNKNOWN_NODE : DROP_NONE;
}
