/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sends a packet its way. */
#pragma once

#include "lib/drop.h"
#include "lib/way.h"

/* In skb->tc_index of what leaves the node from here, so that the programs at its egress know that all is done. */
#define CARRIED 0x6d70

/* include/uapi/linux/if_packet.h: the frame is for this host, or for another. */
#define FRAME_FOR_HOST	  0
#define FRAME_FOR_ANOTHER 3

/* Packets are forwarded, so they are one hop older. */
static __always_inline bool grow_old_v4(struct __sk_buff *skb)
{
	struct iphdr *ip = (void *)(long)skb->data + L3_OFFSET;
	__u32 check;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	/* include/net/ip.h, ip_decrease_ttl() */
	check = ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	ip->ttl--;
	return true;
}

static __always_inline bool grow_old_v6(struct __sk_buff *skb)
{
	const struct ipv6hdr *ip = (void *)(long)skb->data + L3_OFFSET;
	__u8 pair[2];

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	/* Two bytes, because a device's sum over the packet (CHECKSUM_COMPLETE) is one of pairs. */
	pair[0] = ip->nexthdr;
	pair[1] = ip->hop_limit - 1;
	return !bpf_skb_store_bytes(skb, L3_OFFSET + offsetof(struct ipv6hdr, nexthdr), pair, sizeof(pair),
				    BPF_F_RECOMPUTE_CSUM);
}

static __always_inline bool set_macs(struct __sk_buff *skb, const __u8 *macs)
{
	void *data = (void *)(long)skb->data;

	if (data + 2 * ETH_ALEN > (void *)(long)skb->data_end)
		return false;
	__builtin_memcpy(data, macs, 2 * ETH_ALEN);
	return true;
}

static __always_inline int to_next_hop(const struct way *way)
{
	struct bpf_redir_neigh next_hop = { .nh_family = way->hop_family };

	__builtin_memcpy(next_hop.ipv6_nh, way->hop, sizeof(next_hop.ipv6_nh));
	return bpf_redirect_neigh(way->ifindex, &next_hop, sizeof(next_hop), 0);
}

/* Into the tunnel, past its device where the packet is plain enough. */
static __noinline int to_other_node(struct __sk_buff *skb, const struct packet *packet, const struct way *way)
{
	__u32 only = 0;
	const struct pod_network_settings *settings = bpf_map_lookup_elem(&pod_network_settings, &only);
	__be16 port = wrapping_port(skb);

	if (!settings)
		return TC_ACT_SHOT;
	if (!make_room(skb, packet))
		return bpf_redirect(settings->tunnel_ifindex, 0);
	if (!write_outside(skb, packet, way, address_to_v4(&settings->node_v4), port))
		return TC_ACT_SHOT;
	return to_next_hop(way);
}

/* Sends the packet its way; the verdict. Not for WAY_STACK and WAY_NOWHERE. Global: the verifier looks at it by itself, once. */
__weak __noinline int go(struct __sk_buff *skb, const struct work *work)
{
	const struct packet *packet;
	const struct way *way;

	if (!work)
		return TC_ACT_SHOT;
	packet = &work->packet;
	way = &work->way;
	if (packet->family == AF_INET ? !grow_old_v4(skb) : !grow_old_v6(skb))
		return TC_ACT_SHOT;
	skb->tc_index = way->kind == WAY_POD ? 0 : CARRIED;
	switch (way->kind) {
	case WAY_POD:
		if (!set_macs(skb, way->hop))
			return TC_ACT_SHOT;
		count_pod_network(POD_NETWORK_TO_POD);
		/* Into the pod's end at once is possible for what has just come in. */
		return work->origin.hook == HOOK_EGRESS ? bpf_redirect(way->ifindex, 0) : bpf_redirect_peer(way->ifindex, 0);
	case WAY_TUNNEL:
		count_pod_network(POD_NETWORK_TO_TUNNEL);
		return bpf_redirect(way->ifindex, 0);
	case WAY_NODE:
		count_pod_network(POD_NETWORK_TO_TUNNEL);
		return to_other_node(skb, packet, way);
	default:
		count_pod_network(POD_NETWORK_TO_UPLINK);
		return to_next_hop(way);
	}
}

static __always_inline int leave_to_stack(void)
{
	count_pod_network(POD_NETWORK_TO_STACK);
	return TC_ACT_OK;
}
