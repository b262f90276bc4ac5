// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Every packet of every pod (`pod_network`).
 *
 * A hook reads the packet and says whether it may be here; then its flow is found or begun, and `carry` translates it and sends
 * it its way. What no hook understands is left to the host's stack, which can deliver to every pod by itself.
 */
#include "maps/drops.h"
#include "maps/pod_network.h"
#include "lib/after_stack.h"
#include "lib/expire.h"
#include "lib/from_node.h"
#include "lib/from_outside.h"
#include "lib/from_pod.h"
#include "lib/neighbour.h"
#include "lib/parse.h"
#include "lib/tunnel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int received_from_pod(struct __sk_buff *skb, struct work *work)
{
	switch (parse(skb, &work->packet)) {
	case PACKET_OTHER_LINK:
		return leave_to_stack();
	case PACKET_ARP:
		return answer_arp(skb);
	case PACKET_NEIGHBOUR:
		return answer_neighbour(skb, &work->packet);
	case PACKET_MALFORMED:
		return drop(skb, DROP_MALFORMED, DROP_FROM_POD);
	default:
		return from_pod(skb, work);
	}
}

/* Ingress of a pod's host-side link: what the pod sent. */
SEC("tc")
int pod_network_from_pod(struct __sk_buff *skb)
{
	struct work *work = begin_work(skb, HOOK_FROM_POD);
	int verdict;

	if (!work)
		return TC_ACT_SHOT;
	/* Whatever the pod's own traffic control left there is not our mark. */
	skb->tc_index = 0;
	if (!without_priority_tag(skb))
		return drop(skb, DROP_MALFORMED, DROP_FROM_POD);
	verdict = received_from_pod(skb, work);
	/* What the stack shall have, the device's other filters see first: those of a bandwidth limit send it through an ifb.
	 * From a tcx link TC_ACT_OK would go past them.
	 */
	return verdict == TC_ACT_OK ? TC_ACT_UNSPEC : verdict;
}

/* Egress of a pod's host-side link: what the host's stack sends to the pod. What was redirected to the pod's end does not
 * come by.
 */
SEC("tc")
int pod_network_to_pod(struct __sk_buff *skb)
{
	struct work *work = begin_work(skb, HOOK_EGRESS);

	if (!work)
		return TC_ACT_SHOT;
	switch (parse(skb, &work->packet)) {
	case PACKET_ICMP_ERROR:
		return translate_error(skb, work);
	case PACKET_FLOW:
	case PACKET_FRAGMENT:
		return to_pod(skb, work);
	default:
		return TC_ACT_OK;
	}
}

/* They see what we would leave to the stack; where there are none any more, the stack has it all the same. */
static __always_inline int to_another(int verdict)
{
	return beside_another && verdict == TC_ACT_OK ? TC_ACT_UNSPEC : verdict;
}

static __always_inline int received_from_uplink(struct __sk_buff *skb)
{
	struct work *work = begin_work(skb, HOOK_FROM_OUTSIDE);
	enum drop_reason reason;
	enum packet_kind kind;

	if (!work)
		return TC_ACT_SHOT;
	if (!without_priority_tag(skb))
		return drop(skb, DROP_MALFORMED, DROP_TO_POD);
	kind = parse(skb, &work->packet);
	if (kind == PACKET_OTHER_LINK || kind == PACKET_ARP || kind == PACKET_NEIGHBOUR ||
	    skb->pkt_type == FRAME_FOR_ANOTHER)
		return TC_ACT_OK;
	if (is_for_tunnel(&work->packet)) {
		if (skb->pkt_type != FRAME_FOR_HOST || !take_out(skb, work))
			return TC_ACT_OK;
	} else if (kind == PACKET_MALFORMED || skb->pkt_type != FRAME_FOR_HOST) {
		/* Only the stack takes what is broken to us, and what is for everybody on the link. */
		reason = check_source_outside(&work->packet.tuple.source);
		return reason ? drop(skb, reason, DROP_TO_POD) : TC_ACT_OK;
	}
	return from_outside(skb, work);
}

/* Ingress of a device that leads out of the node. */
SEC("tc")
int pod_network_from_uplink(struct __sk_buff *skb)
{
	return to_another(received_from_uplink(skb));
}

/* Egress of such a device: the host's own packets, and those of pods that the stack carries. */
SEC("tc")
int pod_network_to_uplink(struct __sk_buff *skb)
{
	const struct packet *packet;
	const struct pod *pod;
	struct work *work;

	if (skb->tc_index == CARRIED) {
		skb->tc_index = 0;
		return TC_ACT_OK;
	}
	work = begin_work(skb, HOOK_EGRESS);
	if (!work)
		return TC_ACT_SHOT;
	packet = &work->packet;
	switch (parse(skb, &work->packet)) {
	case PACKET_ICMP_ERROR:
		return error_to_uplink(skb, work);
	case PACKET_FLOW:
	case PACKET_FRAGMENT:
	case PACKET_OTHER:
		break;
	default:
		return TC_ACT_OK;
	}
	pod = bpf_map_lookup_elem(&pods, &packet->tuple.source);
	if (pod)
		return pod_to_uplink(skb, work, pod);
	return packet->kind == PACKET_FLOW && !packet->fragmented ? to_node(skb, work) : TC_ACT_OK;
}

static __always_inline int received_from_tunnel(struct __sk_buff *skb)
{
	struct work *work = begin_work(skb, HOOK_FROM_OUTSIDE);

	if (!work)
		return TC_ACT_SHOT;
	if (!tunnel_source(skb, &work->origin))
		return drop(skb, DROP_TUNNEL_UNKNOWN_NODE, DROP_TO_POD);
	switch (parse(skb, &work->packet)) {
	case PACKET_OTHER_LINK:
	case PACKET_ARP:
	case PACKET_NEIGHBOUR:
	case PACKET_MALFORMED:
		/* Nodes share no link in a tunnel: there is nothing to discover. */
		return drop(skb, DROP_MALFORMED, DROP_TO_POD);
	default:
		break;
	}
	/* The link addresses within are whose they were at the other end. */
	if (skb->pkt_type != FRAME_FOR_HOST)
		bpf_skb_change_type(skb, FRAME_FOR_HOST);
	return from_outside(skb, work);
}

/* Ingress of the tunnel device: what another node sent. */
SEC("tc")
int pod_network_from_tunnel(struct __sk_buff *skb)
{
	return to_another(received_from_tunnel(skb));
}

/* Egress of the tunnel device. */
SEC("tc")
int pod_network_to_tunnel(struct __sk_buff *skb)
{
	bool carried = skb->tc_index == CARRIED;
	struct work *work = begin_work(skb, HOOK_EGRESS);
	enum drop_reason reason;

	if (!work)
		return TC_ACT_SHOT;
	switch (parse(skb, &work->packet)) {
	case PACKET_FLOW:
	case PACKET_FRAGMENT:
		if (!carried && !translate_after_stack(skb, work))
			return drop(skb, DROP_MALFORMED, DROP_FROM_POD);
		break;
	case PACKET_ICMP_ERROR:
	case PACKET_OTHER:
		break;
	case PACKET_MALFORMED:
		return drop(skb, DROP_MALFORMED, DROP_FROM_POD);
	default:
		/* The host looks for neighbours even there. Without an address of the tunnel the device lets it go no further. */
		return TC_ACT_OK;
	}
	reason = enter_tunnel(skb, &work->packet.tuple);
	if (reason)
		return drop(skb, reason, DROP_FROM_POD);
	/* With TC_ACT_OK this becomes the packet's tc_index (net/core/dev.c, tc_run, tcx_run), and to_uplink knows it. */
	skb->tc_classid = CARRIED;
	return TC_ACT_OK;
}

/* Run by the agent from time to time. */
SEC("syscall")
int pod_network_expire(struct flow_expiry *expiry)
{
	expire(expiry);
	return 0;
}
