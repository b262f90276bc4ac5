/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A pod that asks for a neighbour is told the host's end of its link: whatever it wants to reach is behind that.
 *
 * Pods have a permanent neighbour for their gateway, so only those ask that lost it, or that think others are on their link.
 */
#pragma once

#include "lib/drop.h"
#include "lib/flow.h"
#include "lib/spoof.h"

#define ROUTER_ADVERTISEMENT 134

/* <linux/if_arp.h> leads to headers of the C library. */
#define ARPOP_REQUEST 1
#define ARPOP_REPLY   2

/* RFC 826, for IPv4 over Ethernet. */
struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_size;
	__u8 protocol_size;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};

static __always_inline struct address arp_address(const __u8 *bytes)
{
	__be32 word;

	__builtin_memcpy(&word, bytes, sizeof(word));
	return address_v4(word);
}

/* Sends the frame back to where it came from. */
static __always_inline int answer(struct __sk_buff *skb, const struct pod *pod)
{
	bpf_skb_store_bytes(skb, 0, pod->mac, sizeof(pod->mac), 0);
	bpf_skb_store_bytes(skb, ETH_ALEN, pod->host_mac, sizeof(pod->host_mac), 0);
	count_pod_network(POD_NETWORK_NEIGHBOUR_ANSWERED);
	return bpf_redirect(skb->ifindex, 0);
}

/* Who asks for its own address looks for somebody else who has it (RFC 5227), and shall find nobody. */
static __noinline int answer_arp(struct __sk_buff *skb)
{
	struct address sender, target;
	const struct pod *pod;
	struct arp arp;

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &arp, sizeof(arp)))
		return drop(skb, DROP_MALFORMED, DROP_FROM_POD);
	if (arp.operation != bpf_htons(ARPOP_REQUEST) || !(arp.sender[0] | arp.sender[1] | arp.sender[2] | arp.sender[3]))
		return TC_ACT_OK;
	sender = arp_address(arp.sender);
	target = arp_address(arp.target);
	pod = pod_speaking(skb, &sender);
	if (!pod)
		return is_observed_link(skb) ? TC_ACT_OK : drop(skb, DROP_SOURCE_NOT_THE_PODS, DROP_FROM_POD);
	if (pod->flags & POD_OBSERVED || address_equal(&sender, &target))
		return TC_ACT_OK;
	arp.operation = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(arp.target_mac, arp.sender_mac, sizeof(arp.target_mac));
	__builtin_memcpy(arp.sender_mac, pod->host_mac, sizeof(arp.sender_mac));
	__builtin_memcpy(&target, arp.sender, sizeof(arp.sender));
	__builtin_memcpy(arp.sender, arp.target, sizeof(arp.sender));
	__builtin_memcpy(arp.target, &target, sizeof(arp.target));
	bpf_skb_store_bytes(skb, L3_OFFSET, &arp, sizeof(arp), 0);
	return answer(skb, pod);
}

/* A neighbour solicitation that carries the asker's link address, and the advertisement that answers it: RFC 4861, 4.3, 4.4. */
struct solicitation {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	struct address target;
	__u8 option;
	__u8 option_size; /* in 8 bytes */
	__u8 mac[6];
};

enum {
	ADVERTISEMENT_FLAGS = 0xe0000000, /* router, solicited, override */
	OPTION_SOURCE_LINK = 1,
	OPTION_TARGET_LINK = 2,
};

static __always_inline __sum16 checksum_fold(__wsum sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __noinline int advertise(struct __sk_buff *skb, const struct packet *packet, const struct pod *pod)
{
	struct address ends[2];
	struct solicitation body;
	__be32 pseudo[2] = { bpf_htonl(sizeof(body)), bpf_htonl(IPPROTO_ICMPV6) };
	__wsum sum;

	if (packet->l4_offset != L3_OFFSET + sizeof(struct ipv6hdr) ||
	    packet->size != sizeof(struct ipv6hdr) + sizeof(body) ||
	    bpf_skb_load_bytes(skb, L3_OFFSET + sizeof(struct ipv6hdr), &body, sizeof(body)) ||
	    body.option != OPTION_SOURCE_LINK || address_equal(&body.target, &packet->tuple.source))
		return TC_ACT_OK;
	ends[0] = body.target;
	ends[1] = packet->tuple.source;
	body.type = ICMP6_NEIGHBOUR_ADVERTISEMENT;
	body.checksum = 0;
	body.flags = bpf_htonl(ADVERTISEMENT_FLAGS);
	body.option = OPTION_TARGET_LINK;
	__builtin_memcpy(body.mac, pod->host_mac, sizeof(body.mac));
	sum = bpf_csum_diff(NULL, 0, (void *)&body, sizeof(body), 0);
	sum = bpf_csum_diff(NULL, 0, (void *)ends, sizeof(ends), sum);
	sum = bpf_csum_diff(NULL, 0, (void *)pseudo, sizeof(pseudo), sum);
	body.checksum = checksum_fold(sum);
	bpf_skb_store_bytes(skb, L3_OFFSET + offsetof(struct ipv6hdr, saddr), ends, sizeof(ends), 0);
	bpf_skb_store_bytes(skb, L3_OFFSET + sizeof(struct ipv6hdr), &body, sizeof(body), 0);
	return answer(skb, pod);
}

/* Neighbour discovery and multicast listeners of a pod: its own affair, as long as it speaks as itself, and as no router. */
static __noinline int answer_neighbour(struct __sk_buff *skb, const struct packet *packet)
{
	const struct pod *pod;

	if (packet->icmp_type == ROUTER_ADVERTISEMENT || packet->icmp_type == ICMP6_REDIRECT)
		return is_observed_link(skb) ? TC_ACT_OK : drop(skb, DROP_SOURCE_NOT_THE_PODS, DROP_FROM_POD);
	if (address_is_zero(&packet->tuple.source) || address_is_link_local_v6(&packet->tuple.source))
		return TC_ACT_OK;
	pod = pod_speaking(skb, &packet->tuple.source);
	if (!pod)
		return is_observed_link(skb) ? TC_ACT_OK : drop(skb, DROP_SOURCE_NOT_THE_PODS, DROP_FROM_POD);
	if (packet->icmp_type != ICMP6_NEIGHBOUR_SOLICITATION || pod->flags & POD_OBSERVED)
		return TC_ACT_OK;
	return advertise(skb, packet, pod);
}
