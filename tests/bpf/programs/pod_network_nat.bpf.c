// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The translations of the pod network one by one, each as a program that a test runs on a packet. */
#include "lib/expire.h"
#include "lib/fragment.h"
#include "lib/icmp_error.h"
#include "lib/parse.h"
#include "lib/flow_state.h"
#include "lib/translate.h"

enum outcome {
	OUTCOME_PASSED,
	OUTCOME_TRANSLATED,
	OUTCOME_BROKEN,
	OUTCOME_DROPPED = 100, /* + enum drop_reason */
};

/* From where a first packet comes. */
enum origin {
	ORIGIN_POD,
	ORIGIN_OUTSIDE,
	ORIGIN_STACK,
};

static __always_inline enum drop_reason begin(struct __sk_buff *skb, const struct packet *packet, enum origin origin)
{
	const struct pod *pod;

	if (!packet->begins)
		return DROP_NONE;
	if (origin == ORIGIN_OUTSIDE)
		return begin_to_frontend(skb, &packet->tuple);
	if (origin == ORIGIN_STACK)
		return begin_after_stack(skb, &packet->tuple);
	pod = bpf_map_lookup_elem(&pods, &packet->tuple.source);
	return pod ? begin_from_pod(skb, &packet->tuple, pod) : DROP_SOURCE_NOT_THE_PODS;
}

/* As a hook does it: what is known is translated; a first packet begins a flow, and is then known. */
static __always_inline int follow(struct __sk_buff *skb, enum origin origin)
{
	enum drop_reason reason;
	struct flow_view view;
	struct packet packet = {};
	struct tuple other;
	bool translated;
	__u32 flags;

	parse(skb, &packet);
	if (packet.kind == PACKET_FRAGMENT && !fragment_complete(&packet))
		return OUTCOME_PASSED;
	if (packet.fragmented && packet.kind == PACKET_FLOW)
		fragment_remember(&packet);
	if (!flow_of(&packet, &view)) {
		reason = begin(skb, &packet, origin);
		if (reason)
			return OUTCOME_DROPPED + reason;
		if (!flow_find(&packet.tuple, &view))
			return OUTCOME_PASSED;
	}
	translated = flow_translation(&view, &other);
	reason = flow_seen(&packet, &view, &flags);
	if (reason)
		return OUTCOME_DROPPED + reason;
	if (!translated)
		return OUTCOME_PASSED;
	return rewrite(skb, &packet, &other) ? OUTCOME_BROKEN : OUTCOME_TRANSLATED;
}

SEC("tc")
int nat_from_pod(struct __sk_buff *skb)
{
	return follow(skb, ORIGIN_POD);
}

SEC("tc")
int nat_to_frontend(struct __sk_buff *skb)
{
	return follow(skb, ORIGIN_OUTSIDE);
}

SEC("tc")
int nat_after_stack(struct __sk_buff *skb)
{
	return follow(skb, ORIGIN_STACK);
}

/* As if another CPU had begun the flow after this one did not find it. */
SEC("tc")
int nat_begin_twice(struct __sk_buff *skb)
{
	enum drop_reason reason;
	struct packet packet = {};

	parse(skb, &packet);
	reason = begin(skb, &packet, ORIGIN_POD);
	if (!reason)
		reason = begin(skb, &packet, ORIGIN_POD);
	return reason ? OUTCOME_DROPPED + reason : OUTCOME_PASSED;
}

static __always_inline int translate_error(struct __sk_buff *skb, bool of_pod)
{
	struct packet packet = {};
	enum icmp_error_outcome outcome;

	if (parse(skb, &packet) != PACKET_ICMP_ERROR)
		return -1;
	outcome = icmp_error_translate(skb, &packet, of_pod);
	return outcome == ICMP_ERROR_UNKNOWN ? OUTCOME_PASSED : outcome;
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

SEC("syscall")
int nat_expire(struct flow_expiry *expiry)
{
	expire(expiry);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
