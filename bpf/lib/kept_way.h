/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way of a flow's packets, kept in its entry for each direction, so that it is not looked for with every packet.
 *
 * What a way is found by changes: rows of the agent, and the host's routes. So a kept one holds only
 * - under the generation that it was found under. The agent counts on when it has written or deleted a row; the number is
 *   read before any of the rows, so a way that was found by an old row has an old number;
 * - for a second. That is for what nobody counts: a route that is not seen yet, an agent that died between row and number.
 *   Of the neighbours nothing is kept, redirect_neigh asks for them each time;
 * - for packets that come in where those came in for which it was found: the device, and in a tunnel the node and what it
 *   said of who speaks. Their source was found right before the way was kept, and the source is in the key: so it is the
 *   same question, and the answer of then is the answer of now. No packet passes without either.
 *
 * A pod's way names a device and both link addresses. A pod that gets the address of one that is gone has another device
 * (numbers of devices count up), so what is sent an old way ends with the old pod's device, whatever the generation says. Its
 * packets come from another device, too, and find no way that was kept for the old pod.
 *
 * Two CPUs may write one way at once, and a third may read it meanwhile: each writes what is right now, so a mixture still
 * goes to a device that one of them names.
 */
#pragma once

#include "lib/way.h"

const volatile __u64 way_age_ns = 1000000000;

static __always_inline struct kept_way *way_place(const struct flow_view *view)
{
	return view->reversed ? &view->entry->way_reversed : &view->entry->way;
}

static __always_inline bool way_holds(const struct kept_way *kept, __u32 generation, __u64 now_ns)
{
	return kept->generation == generation && now_ns - kept->kept_ns < way_age_ns;
}

/* The packet's way, if it is kept and holds. False: it is to be looked for, and the packet's source to be looked at. */
static __always_inline bool recall_way(const struct packet *packet, const struct flow_view *view,
				       const struct origin *origin, struct way *way)
{
	const struct kept_way *kept = way_place(view);

	if (view->entry->flags & FLOW_VIA_STACK || packet->ttl <= 1 || packet->options)
		return false;
	/* Perhaps it begins the flow anew. */
	if (packet->begins && (packet->tuple.protocol == IPPROTO_TCP || view->entry->flags & FLOW_SERVICE))
		return false;
	if (kept->from_ifindex != origin->ifindex || packet->size > kept->way.mtu ||
	    !way_holds(kept, origin->generation, bpf_ktime_get_coarse_ns()))
		return false;
	if (origin->hook == HOOK_FROM_OUTSIDE && (kept->way.node != origin->node || kept->way.identity != origin->identity))
		return false;
	*way = kept->way;
	return true;
}

/* Keeps the way that was found for a packet. Not where one holds that was found for another origin: packets that take turns
 * would write it each time. But one that was found while the kernel knew no neighbour is for small packets only.
 */
static __always_inline void keep_way(const struct flow_view *view, const struct origin *origin, const struct way *way)
{
	struct kept_way *kept;
	__u64 now_ns;

	if (!view->entry || !origin->ifindex || origin->hook == HOOK_EGRESS || origin->via_stack || way->kind == WAY_STACK ||
	    way->kind == WAY_NOWHERE)
		return;
	kept = way_place(view);
	now_ns = bpf_ktime_get_coarse_ns();
	if (way_holds(kept, origin->generation, now_ns) && way->mtu <= kept->way.mtu)
		return;
	kept->kept_ns = 0;
	kept->way = *way;
	kept->from_ifindex = origin->ifindex;
	kept->generation = origin->generation;
	kept->kept_ns = now_ns;
	/* Packets that go a kept way do not renew the flow. */
	if (!(view->entry->flags & FLOW_ALIAS))
		view->entry->last_seen_ns = now_ns;
}
