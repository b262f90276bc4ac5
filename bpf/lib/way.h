/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way on for a packet: past the host's stack where that is plainly right, through it in every other case. The stack has a
 * route and a neighbour for every pod, so it can always deliver; it also answers what is too big or has been under way too long.
 */
#pragma once

#include "lib/rewrite.h"
#include "lib/spoof.h"
#include "lib/work.h"
#include "lib/wrap.h"

#define NO_MTU 0xffffffff

static __always_inline void way_to_pod(const struct pod *pod, struct way *way)
{
	way->kind = WAY_POD;
	way->ifindex = pod->ifindex;
	way->mtu = NO_MTU;
	__builtin_memcpy(&way->hop[0], pod->mac, ETH_ALEN);
	__builtin_memcpy(&way->hop[ETH_ALEN], pod->host_mac, ETH_ALEN);
}

/* By the host's routes for what `work->route` asks, if they lead out of an uplink. False: they do not. */
static __noinline bool way_by_route(struct __sk_buff *skb, struct work *work, __u32 flags)
{
	struct bpf_fib_lookup *route = (void *)work->route;
	struct way *way = &work->way;
	__u32 ifindex;
	long found;

	route->ifindex = skb->ifindex;
	found = bpf_fib_lookup(skb, route, sizeof(*route), flags);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return false;
	ifindex = route->ifindex;
	if (!bpf_map_lookup_elem(&uplinks, &ifindex))
		return false;
	way->ifindex = ifindex;
	/* Without a neighbour the kernel leaves the packet's own size there. */
	way->mtu = route->mtu_result;
	way->hop_family = route->family;
	__builtin_memcpy(way->hop, route->ipv6_dst, sizeof(way->hop));
	return true;
}

static __noinline void way_to_uplink(struct __sk_buff *skb, struct work *work, const struct tuple *to)
{
	struct bpf_fib_lookup *route = (void *)work->route;
	struct packet *packet = &work->packet;

	*route = (struct bpf_fib_lookup){};
	route->family = packet->family;
	route->l4_protocol = to->protocol;
	route->sport = to->source_port;
	route->dport = to->destination_port;
	route->tot_len = packet->size;
	if (packet->family == AF_INET) {
		route->ipv4_src = address_to_v4(&to->source);
		route->ipv4_dst = address_to_v4(&to->destination);
	} else {
		__builtin_memcpy(route->ipv6_src, &to->source, sizeof(route->ipv6_src));
		__builtin_memcpy(route->ipv6_dst, &to->destination, sizeof(route->ipv6_dst));
	}
	if (way_by_route(skb, work, work->origin.hook == HOOK_EGRESS ? BPF_FIB_LOOKUP_OUTPUT : 0))
		work->way.kind = WAY_UPLINK;
}

/* The number of who speaks, as the node `behind` the tunnel takes it; 0: nobody of this node. */
static __always_inline __u32 identity_for(const struct destination *behind, const struct address *source)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, source);
	const struct destination *destination;

	if (pod)
		return behind->flags & DESTINATION_TAKES_IDENTITY ? pod->identity : IDENTITY_UNMANAGED;
	destination = destination_of(source);
	return destination && destination->kind == DESTINATION_HOST ? IDENTITY_REMOTE_NODE : 0;
}

/* Past the tunnel's device, whose MTU the way has already. */
static __noinline void way_to_node(struct __sk_buff *skb, struct work *work, __be32 node, __be32 own)
{
	struct bpf_fib_lookup *route = (void *)work->route;
	struct way *way = &work->way;
	__u32 mtu = way->mtu;

	*route = (struct bpf_fib_lookup){};
	route->family = AF_INET;
	route->l4_protocol = IPPROTO_UDP;
	route->sport = wrapping_port(skb);
	route->dport = bpf_htons(tunnel_port);
	route->tot_len = work->packet.size + WRAPPING;
	route->ipv4_src = own;
	route->ipv4_dst = node;
	if (!way_by_route(skb, work, 0))
		return;
	way->kind = WAY_NODE;
	way->node = node;
	way->mtu -= WRAPPING;
	if (way->mtu > mtu)
		way->mtu = mtu;
}

/* A packet that does not fit is the stack's, which says so or cuts it; but not where only we know how it is translated: then
 * the tunnel's own packets are cut, which the device does.
 */
static __always_inline void way_to_tunnel(struct __sk_buff *skb, struct work *work, const struct tuple *to,
					  const struct destination *behind)
{
	__u32 only = 0, mtu = 0;
	const struct pod_network_settings *settings = bpf_map_lookup_elem(&pod_network_settings, &only);
	struct way *way = &work->way;

	if (!settings || !settings->tunnel_ifindex)
		return;
	if (work->origin.hook == HOOK_FROM_POD && bpf_check_mtu(skb, settings->tunnel_ifindex, &mtu, 0, BPF_MTU_CHK_SEGS))
		return;
	way->kind = WAY_TUNNEL;
	way->ifindex = settings->tunnel_ifindex;
	way->mtu = mtu ? mtu : NO_MTU;
	if (work->origin.hook != HOOK_FROM_POD || !address_is_v4(&behind->tunnel) || address_is_zero(&settings->node_v4))
		return;
	way->identity = identity_for(behind, &to->source);
	if (way->identity)
		way_to_node(skb, work, address_to_v4(&behind->tunnel), address_to_v4(&settings->node_v4));
}

/* Where a packet goes that is, or will be, between the ends of `to`. */
static __always_inline void look_for_way(struct __sk_buff *skb, struct work *work, const struct tuple *to)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, &to->destination);
	const struct origin *origin = &work->origin;
	struct way *way = &work->way;
	const struct destination *destination;

	way->kind = WAY_STACK;
	way->node = origin->node;
	way->identity = origin->identity;
	/* The stack answers the one, and obeys or refuses the other. */
	if (work->packet.ttl <= 1 || work->packet.options)
		return;
	if (pod) {
		/* Back to its sender there is no limit on any link to keep, and no route of the stack's. */
		if (!(pod->flags & POD_OBSERVED) && (pod->ifindex == skb->ifindex || origin->hook == HOOK_EGRESS ||
						     (!origin->via_stack && !(pod->flags & POD_VIA_STACK))))
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
			if (!origin->via_stack)
				way_to_uplink(skb, work, to);
			return;
		}
		__attribute__((fallthrough));
	case DESTINATION_TUNNEL:
		if (!origin->via_stack)
			way_to_tunnel(skb, work, to, destination);
		return;
	default:
		if (!origin->via_stack)
			way_to_uplink(skb, work, to);
	}
}

/* Where the packet goes, which is, or will be, between the ends of `work->to`. Global, so that the verifier looks at it once;
 * it finds the work itself, because Linux 6.1 takes no key for a map out of what a global function was handed. 0.
 */
__weak __noinline int find_way(struct __sk_buff *skb)
{
	struct work *work = the_work();

	if (work)
		look_for_way(skb, work, &work->to);
	return 0;
}
