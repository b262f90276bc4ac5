/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which packets the short circuit looks at: those of selected pods, in connections as their sockets see them. */
#pragma once

#include "lib/flow.h"
#include "lib/short_circuit.h"

/* Packets of a pod in a flow before it is looked at: to admit a connection costs as much as some of its packets. */
const volatile __u32 short_circuit_after_packets = 10;

/* A packet of a connection that two selected workloads may have (lib/examine.h). Global, so that the verifier looks at it once,
 * and in the object of the short circuit, because libbpf's linker takes a function of the kernel from one object only.
 */
extern int examine(struct __sk_buff *skb, const struct tuple *tuple, __u32 epoch);

/* Refused for what may have changed: a socket that turned non-blocking, or room. */
static __always_inline bool is_due(const struct flow *flow)
{
	return flow->look_again_ns && bpf_ktime_get_coarse_ns() >= flow->look_again_ns;
}

/* A packet of a selected pod: whether its connection can be short-circuited is found out once in an epoch, and after a
 * refusal now and then.
 */
static __always_inline void consider(struct __sk_buff *skb, const struct packet *packet, const struct flow_view *view)
{
	struct flow *flow = view->entry;
	__u32 examined = flow->examined, epoch;

	if (examined < short_circuit_after_packets * EXAMINED_PACKET) {
		flow->examined = examined + EXAMINED_PACKET;
		return;
	}
	epoch = short_circuit_epoch_now();
	if (((examined & EXAMINED_EPOCH) == epoch && !is_due(flow)) || !view->settled ||
	    flow->flags & (FLOW_OVER | FLOW_STAYS_ON_TCP) || !short_circuit_is_on())
		return;
	switch (examine(skb, &packet->tuple, epoch)) {
	case ADMISSION_LATER:
		return;
	case ADMISSION_REFUSED:
		look_again_later(flow);
		break;
	default:
		flow->look_again_ns = 0;
	}
	flow->examined = (examined & ~EXAMINED_EPOCH) | epoch;
}

/* Whether the flow is a connection as its sockets see it. */
static __always_inline bool is_plain_connection(const struct packet *packet, const struct flow_view *view)
{
	return packet->tuple.protocol == IPPROTO_TCP && !(view->entry->flags & (FLOW_ALIAS | FLOW_TRANSLATED));
}
