// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The translations of the pod network one by one, each as a program that a test runs on a packet. */
#include "lib/fragment.h"
#include "lib/icmp_error.h"
#include "lib/translate.h"

enum outcome {
	OUTCOME_PASSED,
	OUTCOME_TRANSLATED,
	OUTCOME_BROKEN,
	OUTCOME_DROPPED = 100, /* + enum drop_reason */
};

/* As a hook does it: what is known is translated; a first packet begins a flow, and is then known. */
static __always_inline int follow(struct __sk_buff *skb, struct packet *packet, enum drop_reason begun)
{
	struct flow_view view;
	struct tuple other;

	if (begun)
		return OUTCOME_DROPPED + begun;
	if (!flow_find(&packet->tuple, &view))
		return OUTCOME_PASSED;
	if (!flow_translation(&view, &other))
		return OUTCOME_PASSED;
	if (view.place == FLOW_PLACE_ANSWERED)
		flow_key(&view.entry->other, &view.key);
	if (view.place == FLOW_PLACE_ANSWERED && !bpf_map_lookup_elem(&flows, &view.key)) {
		view.entry = bpf_map_lookup_elem(&new_flows, &view.key);
		if (view.entry && !flow_settle(&view.key, view.entry))
			return OUTCOME_DROPPED + DROP_FLOW_TABLE_FULL;
	}
	return rewrite(skb, packet, &other) ? OUTCOME_BROKEN : OUTCOME_TRANSLATED;
}

static __always_inline bool is_new(struct __sk_buff *skb, struct packet *packet)
{
	struct flow_view view;

	parse(skb, packet);
	if (packet->kind == PACKET_FRAGMENT && !fragment_complete(packet))
		return false;
	if (packet->fragmented && packet->kind == PACKET_FLOW)
		fragment_remember(packet);
	if (!flow_find(&packet->tuple, &view))
		return packet->begins;
	if (view.place == FLOW_PLACE_SENT && service_lapsed(&packet->tuple, view.entry)) {
		translation_end(&view);
		return packet->begins;
	}
	return false;
}

SEC("tc")
int nat_from_pod(struct __sk_buff *skb)
{
	const struct pod *pod;
	struct packet packet;
	enum drop_reason begun = DROP_NONE;

	if (is_new(skb, &packet)) {
		pod = bpf_map_lookup_elem(&pods, &packet.tuple.source);
		if (!pod)
			return OUTCOME_DROPPED + DROP_SOURCE_NOT_THE_PODS;
		begun = begin_from_pod(skb, &packet.tuple, pod);
	}
	return follow(skb, &packet, begun);
}

SEC("tc")
int nat_to_frontend(struct __sk_buff *skb)
{
	struct packet packet;
	enum drop_reason begun = DROP_NONE;

	if (is_new(skb, &packet))
		begun = begin_to_frontend(skb, &packet.tuple);
	return follow(skb, &packet, begun);
}

SEC("tc")
int nat_after_stack(struct __sk_buff *skb)
{
	struct packet packet;
	enum drop_reason begun = DROP_NONE;

	if (is_new(skb, &packet))
		begun = begin_after_stack(skb, &packet.tuple);
	return follow(skb, &packet, begun);
}

static __always_inline int translate_error(struct __sk_buff *skb, bool of_pod)
{
	struct packet packet;

	if (parse(skb, &packet) != PACKET_ICMP_ERROR)
		return -1;
	return icmp_error_translate(skb, &packet, of_pod);
}

SEC("tc")
int nat_error(struct __sk_buff *skb)
{
	return translate_error(skb, false);
}

SEC("tc")
int nat_error_of_pod(struct __sk_buff *skb)
{
	return translate_error(skb, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
