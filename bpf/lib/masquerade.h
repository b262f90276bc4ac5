/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What leaves the cluster does so under an address of the node, each flow with a port (an echo: identifier) of its own.
 *
 * The ports are of a range that the agent reserves on the node, so that no socket of the host gets one by chance; one that a
 * socket holds all the same is passed over.
 */
#pragma once

#include "lib/destination.h"
#include "lib/flow.h"
#include "lib/rewrite.h"
#include "lib/wrap.h"

/* 0: pods keep their address also where they leave the cluster. */
const volatile __u32 masquerade = 1;
const volatile __u16 masquerade_port_first = 32768;
const volatile __u16 masquerade_port_last = 60999;

/* How many ports are tried before a flow is refused: with nine of ten taken, one flow in thirty. */
#define MASQUERADE_PROBES 32

static __always_inline bool is_masquerade_port(__be16 port)
{
	return bpf_ntohs(port) >= masquerade_port_first && bpf_ntohs(port) <= masquerade_port_last;
}

/* Whether a pod of this node does not go there under its own address. */
static __always_inline bool masquerade_is_wanted(const struct address *destination)
{
	enum destination_kind kind;

	if (!masquerade)
		return false;
	kind = destination_kind(destination);
	return kind == DESTINATION_WORLD || kind == DESTINATION_NODE;
}

/* The device's address of that family; NULL: it has none. */
static __always_inline const struct address *uplink_address(const struct uplink *uplink, const struct address *family_of)
{
	const struct address *found = address_is_v4(family_of) ? &uplink->v4 : &uplink->v6;

	return address_is_zero(found) ? NULL : found;
}

/* Whether an answer to `sent` would find a socket of this node: then those are its packets. */
static __noinline bool is_held_by_socket(struct __sk_buff *skb, const struct tuple *sent)
{
	bool v4 = address_is_v4(&sent->source);
	struct bpf_sock_tuple answer = {};
	struct bpf_sock *held;
	__u32 size = v4 ? sizeof(answer.ipv4) : sizeof(answer.ipv6);

	if (v4) {
		answer.ipv4.saddr = address_to_v4(&sent->destination);
		answer.ipv4.daddr = address_to_v4(&sent->source);
		answer.ipv4.sport = sent->destination_port;
		answer.ipv4.dport = sent->source_port;
	} else {
		__builtin_memcpy(answer.ipv6.saddr, &sent->destination, sizeof(answer.ipv6.saddr));
		__builtin_memcpy(answer.ipv6.daddr, &sent->source, sizeof(answer.ipv6.daddr));
		answer.ipv6.sport = sent->destination_port;
		answer.ipv6.dport = sent->source_port;
	}
	if (sent->protocol == IPPROTO_TCP)
		held = bpf_skc_lookup_tcp(skb, &answer, size, BPF_F_CURRENT_NETNS, 0);
	else if (sent->protocol == IPPROTO_UDP)
		held = bpf_sk_lookup_udp(skb, &answer, size, BPF_F_CURRENT_NETNS, 0);
	else
		return false;
	if (!held)
		return false;
	bpf_sk_release(held);
	return true;
}

static __always_inline void set_source_port(struct tuple *tuple, __be16 port)
{
	tuple->source_port = port;
	if (is_echo(tuple))
		tuple->destination_port = port;
}

/* flow_key, out of line: it needs room on the stack. */
static __noinline bool draft_key(const struct tuple *tuple, struct tuple *key)
{
	return flow_key(tuple, key);
}

/* Enters the alias under the translated side, if nobody has that. A lookup first: a table of new flows that is full would push
 * out an entry for each attempt. Global, so that the verifier looks at it once and not once a probe; it finds the draft
 * itself, because Linux 6.1 takes no key for a map out of what a global function was handed.
 */
__weak __noinline int claim(struct __sk_buff *skb)
{
	struct flow_draft *draft = flow_draft();
	bool reversed, settled;

	if (!draft)
		return false;
	reversed = draft_key(&draft->flow.other, &draft->alias_key);
	/* A pod that serves itself and asks from the port it serves at: both sides would be one pair of ends. */
	if (tuple_equal(&draft->key, &draft->alias_key) || flow_lookup(&draft->alias_key, &settled))
		return false;
	if (draft->of_node && is_held_by_socket(skb, &draft->flow.other))
		return false;
	return flow_insert_at(&draft->alias_key, reversed, &draft->alias);
}

static __always_inline __be16 probe_port(__u32 start, __u32 probe)
{
	__u32 ports = masquerade_port_last - masquerade_port_first + 1;
	/* In a range that the probes can exhaust, one after the other; else anywhere, because the taken ones are in heaps. */
	__u32 place = ports <= MASQUERADE_PROBES ? start + probe : bpf_get_prandom_u32();

	return bpf_htons(masquerade_port_first + place % ports);
}

/* Enters the alias under a translated side that is this flow's alone: with the source port it has if that may be, else with
 * one of the range. False: all that were tried are taken.
 */
static __always_inline bool claim_port(struct __sk_buff *skb, struct flow_draft *draft)
{
	struct tuple *translated = &draft->flow.other;
	__u32 start = bpf_get_prandom_u32();

	if ((!draft->of_node || is_masquerade_port(translated->source_port)) && claim(skb))
		return true;
	for (__u32 probe = 0; probe < MASQUERADE_PROBES; probe++) {
		set_source_port(translated, probe_port(start, probe));
		if (claim(skb))
			return true;
	}
	return false;
}
