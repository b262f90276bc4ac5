/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What another node sent through a tunnel, at the uplink where it comes in: taken out of it here, if it is plainly a packet of
 * a flow to a pod of this node. Everything else is left to the tunnel's device, and comes by once more behind it.
 */
#pragma once

#include "lib/from_outside.h"
#include "lib/parse.h"
#include "lib/tunnel.h"

/* Reads the packet within. False: none that could be taken out here. */
static __noinline bool read_wrapped(struct __sk_buff *skb, struct work *work)
{
	__u32 only = 0;
	const struct pod_network_settings *settings = bpf_map_lookup_elem(&pod_network_settings, &only);
	struct origin *origin = &work->origin;
	struct packet *packet = &work->packet;
	__be16 kind;

	if (!settings || !has_bytes(skb, WRAPPED_L3) || !read_wrapping(skb, packet, &origin->identity, &kind))
		return false;
	origin->outer = packet->tuple.source;
	origin->node = address_to_v4(&origin->outer);
	origin->ifindex = settings->tunnel_ifindex;
	return parse_wrapped(skb, kind, packet) == PACKET_FLOW && !packet->fragmented && packet->ttl > 1 &&
	       !packet->options && (!skb->gso_size || packet->tuple.protocol == IPPROTO_TCP);
}

/* Whether it is to a pod that programs carry packets to, and of a flow that begins or is as it shall be. */
static __noinline bool is_plain(const struct packet *packet)
{
	const struct pod *pod = bpf_map_lookup_elem(&pods, &packet->tuple.destination);
	struct flow_view view;

	if (!pod || pod->flags & (POD_VIA_STACK | POD_OBSERVED))
		return false;
	if (!flow_find(&packet->tuple, &view))
		return packet->begins;
	return !(view.entry->flags & (FLOW_ALIAS | FLOW_TRANSLATED | FLOW_VIA_STACK));
}

/* Takes the outside off; `work` is that of the packet within, from the other node. False: the packet is as it was, and
 * `work` is of no use any more.
 */
static __noinline bool take_out(struct __sk_buff *skb, struct work *work)
{
	return read_wrapped(skb, work) && is_plain(&work->packet) && unwrap(skb, work->packet.family);
}
