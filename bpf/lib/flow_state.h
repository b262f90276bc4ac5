/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a packet does to the flow that it belongs to: how far it is, when it was seen, and when it is over. */
#pragma once

#include "lib/service.h"
#include "lib/short_circuit.h"

/* The entry that holds the state: the one that was found, or that whose alias was found. NULL: it was pushed out. */
static __always_inline struct flow *flow_main(const struct flow_view *view, struct tuple *key, bool *settled)
{
	struct flow *flow = view->entry;

	if (!(flow->flags & FLOW_ALIAS)) {
		*key = view->key;
		*settled = view->settled;
		return flow;
	}
	find_key(&flow->other, key);
	flow = flow_lookup(key, settled);
	return flow && !(flow->flags & FLOW_ALIAS) ? flow : NULL;
}

/* Removes both entries of a flow. */
static __noinline void flow_end(const struct flow_view *view)
{
	struct tuple key = {}, alias_key = {};
	bool settled;
	struct flow *flow = flow_main(view, &key, &settled);

	if (!flow) {
		flow_remove(&view->key);
		return;
	}
	if (flow_is_charged(flow, settled))
		flow_uncharge(&flow->owner);
	if (flow->flags & FLOW_TRANSLATED)
		flow_remove_alias(&key, flow, &alias_key);
	flow_remove(&key);
}

/* A packet that may begin a flow, and finds one that is over: a connection that was closed, or a backend that left. */
static __noinline bool flow_is_spent(const struct packet *packet, const struct flow_view *view)
{
	struct tuple key = {};
	bool settled;
	struct flow *flow;

	if (packet->tuple.protocol == IPPROTO_UDP)
		return view->place == FLOW_PLACE_SENT && service_lapsed(&packet->tuple, view->entry);
	flow = flow_main(view, &key, &settled);
	return !flow || (packet->tuple.protocol == IPPROTO_TCP && flow->flags & FLOW_OVER);
}

/* Whether a flow that was found goes on with this packet; false: it was over, and is removed. */
static __always_inline bool flow_goes_on(const struct packet *packet, struct flow_view *view)
{
	if (!packet->begins || !flow_is_spent(packet, view))
		return true;
	flow_end(view);
	return false;
}

/* Finds the flow of a packet, if it goes on. */
static __always_inline bool flow_of(const struct packet *packet, struct flow_view *view)
{
	return flow_find(&packet->tuple, view) && flow_goes_on(packet, view);
}

static __always_inline void flow_renew(struct flow *flow)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	/* Every packet would pull the entry's cache line to its CPU. */
	if (now - flow->last_seen_ns >= FLOW_RENEWAL_NS)
		flow->last_seen_ns = now;
}

static __always_inline void flow_mark(struct flow *flow, __u32 flags)
{
	if ((flow->flags & flags) != flags)
		__sync_fetch_and_or((__u32 *)&flow->flags, flags);
}

/* Whether this packet shows that the flow is answered: of TCP, that the initiator has heard the answer. */
static __always_inline bool flow_is_answered_by(const struct packet *packet, const struct flow *flow, bool from_initiator)
{
	if (packet->tuple.protocol != IPPROTO_TCP)
		return !from_initiator;
	return from_initiator && flow->flags & FLOW_REPLIED && packet->tcp_flags & TCP_ACK;
}

/* Nobody sends any more. */
static __always_inline bool flow_is_closed(const struct flow *flow)
{
	__u32 both = FLOW_FIN_INITIATOR | FLOW_FIN_RESPONDER;

	return flow->flags & FLOW_RESET || (flow->flags & both) == both;
}

/* How far a packet says that a connection is. Anybody can forge a reset, and an end that got a false one takes no notice of it
 * and speaks on: then it was none. An end that was reset in truth answers whatever still comes with the next reset.
 */
static __noinline void flow_note(const struct packet *packet, const struct tuple *key, struct flow *flow,
				 bool from_initiator)
{
	if (packet->tcp_flags & TCP_RST)
		flow_mark(flow, FLOW_RESET);
	else if (packet->tcp_flags & TCP_FIN)
		flow_mark(flow, from_initiator ? FLOW_FIN_INITIATOR : FLOW_FIN_RESPONDER);
	else if (flow->flags & FLOW_RESET && packet->tcp_flags & TCP_ACK)
		__sync_fetch_and_and((__u32 *)&flow->flags, ~(__u32)FLOW_RESET);
	if (short_circuit && flow->flags & FLOW_SHORT_CIRCUIT && flow_is_closed(flow))
		short_circuit_close(key);
}

static __noinline enum drop_reason flow_advance(const struct packet *packet, struct flow_view *view, __u32 *flags)
{
	bool from_initiator = flow_is_from_initiator(view), settled;
	struct tuple key = {};
	struct flow *flow = flow_main(view, &key, &settled);

	if (!flow)
		return DROP_NO_FLOW;
	*flags = flow->flags;
	flow_renew(flow);
	flow_note(packet, &key, flow, from_initiator);
	if (settled)
		return DROP_NONE;
	if (flow_is_answered_by(packet, flow, from_initiator)) {
		view->entry = NULL;
		return flow_settle(&key, flow);
	}
	if (!from_initiator)
		flow_mark(flow, FLOW_REPLIED);
	else if (flow->flags & FLOW_TRANSLATED && !flow_restore_alias(&key, flow)) {
		/* What the initiator sends next begins anew. */
		view->entry = NULL;
		if (flow_is_charged(flow, false))
			flow_uncharge(&flow->owner);
		flow_remove(&key);
		return DROP_NO_FLOW;
	}
	return DROP_NONE;
}

/* Enters the packet in the state of its flow. `flags` become those of the flow as it was. `view->entry` is NULL afterwards
 * where the entry is in that place no more.
 */
static __always_inline enum drop_reason flow_seen(const struct packet *packet, struct flow_view *view, __u32 *flags)
{
	/* Nearly every packet: in the middle of a flow that nobody translates. */
	if (!view->settled || view->entry->flags & (FLOW_ALIAS | FLOW_RESET) || packet->tcp_flags & (TCP_FIN | TCP_RST))
		return flow_advance(packet, view, flags);
	*flags = view->entry->flags;
	flow_renew(view->entry);
	return DROP_NONE;
}
