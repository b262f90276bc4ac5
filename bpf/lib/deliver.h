/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way on for a packet: past the host's stack where that is plainly right, through it in every other case. The stack has a
 * route and a neighbour for every pod, so it can always deliver; it also answers what is too big or has been under way too long.
 */
#pragma once

#include "lib/drop.h"
#include "lib/flow.h"
#include "lib/spoof.h"

/* In skb->tc_index of what leaves the node from here, so that the programs at its egress know that all is done. */
#define CARRIED 0x6d70

/* include/uapi/linux/if_packet.h: the frame is for this host, or for another. */
#define FRAME_FOR_HOST	  0
#define FRAME_FOR_ANOTHER 3

enum way_kind {
	WAY_STACK,
	WAY_POD,
	WAY_UPLINK,
	WAY_TUNNEL,
	WAY_NOWHERE, /* a pod of this node that does not exist */
};

/* Where the packet is when its way is looked for. */
enum hook {
	HOOK_FROM_POD,
	HOOK_FROM_OUTSIDE,
	HOOK_EGRESS,
};

/* `hook` and `via_stack` are asked, the rest is answered. */
struct way {
	enum hook hook;
	bool via_stack; /* the packet may not leave the host's stack out */
	__u8 pad[3];
	enum way_kind kind;
	__u32 ifindex;
	__u8 macs[12];	  /* WAY_POD: the destination's and the source's, as in the frame */
	__u32 hop_family; /* WAY_UPLINK: the next hop, which may be of the other family */
	__be32 next_hop[4];
};

static __always_inline void way_to_pod(const struct pod *pod, struct way *way)
{
	way->kind = WAY_POD;
	way->ifindex = pod->ifindex;
	__builtin_memcpy(&way->macs[0], pod->mac, ETH_ALEN);
	__builtin_memcpy(&way->macs[ETH_ALEN], pod->host_mac, ETH_ALEN);
}

/* A packet that does not fit is the stack's, which says so or cuts it; but not where only we know how it is translated: then
 * the tunnel's own packets are cut.
 */
static __always_inline void way_to_tunnel(struct __sk_buff *skb, struct way *way)
{
	__u32 only = 0, mtu = 0;
	const struct pod_network_settings *settings = bpf_map_lookup_elem(&pod_network_settings, &only);

	if (!settings || !settings->tunnel_ifindex)
		return;
	if (way->hook == HOOK_FROM_POD && bpf_check_mtu(skb, settings->tunnel_ifindex, &mtu, 0, BPF_MTU_CHK_SEGS))
		return;
	way->kind = WAY_TUNNEL;
	way->ifindex = settings->tunnel_ifindex;
}

/* By the host's routes, if they lead out of an uplink. */
static __noinline void way_to_uplink(struct __sk_buff *skb, const struct packet *packet, const struct tuple *to,
				     struct way *way)
{
	struct bpf_fib_lookup route = {
		.family = packet->family,
		.l4_protocol = to->protocol,
		.sport = to->source_port,
		.dport = to->destination_port,
		.tot_len = packet->size,
		.ifindex = skb->ifindex,
	};
	__u32 ifindex;
	long found;

	if (packet->family == AF_INET) {
		route.ipv4_src = address_to_v4(&to->source);
		route.ipv4_dst = address_to_v4(&to->destination);
	} else {
		__builtin_memcpy(route.ipv6_src, &to->source, sizeof(route.ipv6_src));
		__builtin_memcpy(route.ipv6_dst, &to->destination, sizeof(route.ipv6_dst));
	}
	found = bpf_fib_lookup(skb, &route, sizeof(route), way->hook == HOOK_EGRESS ? BPF_FIB_LOOKUP_OUTPUT : 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return;
	ifindex = route.ifindex;
	if (!bpf_map_lookup_elem(&uplinks, &ifindex))
		return;
	way->kind = WAY_UPLINK;
	way->ifindex = ifindex;
	way->hop_family = route.family;
	__builtin_memcpy(way->next_hop, route.ipv6_dst, sizeof(way->next_hop));
}

/* Where a packet goes that is, or will be, between the ends of `to`. */
static __always_inline void find_way(struct __sk_buff *skb, const struct packet *packet, const struct tuple *to,
				     struct way *way)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, &to->destination);
	const struct destination *destination;

	way->kind = WAY_STACK;
	/* The stack answers the one, and obeys or refuses the other. */
	if (packet->ttl <= 1 || packet->options)
		return;
	if (pod) {
		/* Back to its sender there is no limit on any link to keep, and no route of the stack's. */
		if (!(pod->flags & POD_OBSERVED) && (pod->ifindex == skb->ifindex || way->hook == HOOK_EGRESS ||
						     (!way->via_stack && !(pod->flags & POD_VIA_STACK))))
			way_to_pod(pod, way);
		return;
	}
	destination = destination_of(&to->destination);
	switch (destination ? destination->kind : DESTINATION_WORLD) {
	case DESTINATION_LOCAL_PODS:
		way->kind = WAY_NOWHERE;
		return;
	case DESTINATION_HOST:
	case DESTINATION_STACK:
		return;
	case DESTINATION_NODE:
		/* In its own name a pod speaks to nodes through the tunnel only: from an uplink they would not take it. */
		if (!bpf_map_lookup_elem(&pods, &to->source)) {
			if (!way->via_stack)
				way_to_uplink(skb, packet, to, way);
			return;
		}
		__attribute__((fallthrough));
	case DESTINATION_TUNNEL:
		if (!way->via_stack)
			way_to_tunnel(skb, way);
		return;
	default:
		if (!way->via_stack)
			way_to_uplink(skb, packet, to, way);
	}
}

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

static __always_inline bool set_macs(struct __sk_buff *skb, const __u8 macs[12])
{
	void *data = (void *)(long)skb->data;

	if (data + 2 * ETH_ALEN > (void *)(long)skb->data_end)
		return false;
	__builtin_memcpy(data, macs, 2 * ETH_ALEN);
	return true;
}

/* Sends the packet its way; the verdict. Not for WAY_STACK and WAY_NOWHERE. */
static __always_inline int go(struct __sk_buff *skb, const struct packet *packet, struct way *way)
{
	struct bpf_redir_neigh next_hop = {};

	if (packet->family == AF_INET ? !grow_old_v4(skb) : !grow_old_v6(skb))
		return TC_ACT_SHOT;
	skb->tc_index = way->kind == WAY_POD ? 0 : CARRIED;
	switch (way->kind) {
	case WAY_POD:
		if (!set_macs(skb, way->macs))
			return TC_ACT_SHOT;
		count_pod_network(POD_NETWORK_TO_POD);
		/* Into the pod's end at once is possible for what has just come in. */
		return way->hook == HOOK_EGRESS ? bpf_redirect(way->ifindex, 0) : bpf_redirect_peer(way->ifindex, 0);
	case WAY_TUNNEL:
		count_pod_network(POD_NETWORK_TO_TUNNEL);
		return bpf_redirect(way->ifindex, 0);
	default:
		count_pod_network(POD_NETWORK_TO_UPLINK);
		next_hop.nh_family = way->hop_family;
		__builtin_memcpy(next_hop.ipv6_nh, way->next_hop, sizeof(next_hop.ipv6_nh));
		return bpf_redirect_neigh(way->ifindex, &next_hop, sizeof(next_hop), 0);
	}
}

static __always_inline int leave_to_stack(void)
{
	count_pod_network(POD_NETWORK_TO_STACK);
	return TC_ACT_OK;
}
