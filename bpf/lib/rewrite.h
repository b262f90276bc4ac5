/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet gets other ends: addresses, ports and every checksum that covers them. */
#pragma once

#include <linux/errno.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "lib/packet.h"

#define IPV4_CHECKSUM  (L3_OFFSET + offsetof(struct iphdr, check))
#define IPV4_ADDRESSES (L3_OFFSET + offsetof(struct iphdr, saddr))
#define IPV6_ADDRESSES (L3_OFFSET + offsetof(struct ipv6hdr, saddr))
#define BOTH_ADDRESSES (2 * sizeof(struct address))
/* <linux/icmp.h> leads to headers of the C library. The same in ICMPv6. */
#define ICMP_CHECKSUM	     2
#define ICMP_ECHO_IDENTIFIER 4

static __always_inline bool is_echo(const struct tuple *tuple)
{
	return tuple->protocol == IPPROTO_ICMP || tuple->protocol == IPPROTO_ICMPV6;
}

/* Both IPv4 addresses as they stand in a header. */
struct ipv4_ends {
	__be32 source;
	__be32 destination;
};

static __always_inline struct ipv4_ends ipv4_ends(const struct tuple *tuple)
{
	return (struct ipv4_ends){
		.source = address_to_v4(&tuple->source),
		.destination = address_to_v4(&tuple->destination),
	};
}

static __always_inline __u32 both_ports(const struct tuple *tuple)
{
	__u32 ports;

	__builtin_memcpy(&ports, &tuple->source_port, sizeof(ports));
	return ports;
}

/* Where the checksum of a transport header is, from its start; 0: that protocol has none that we know. */
static __always_inline __u32 checksum_place(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return offsetof(struct udphdr, check);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return ICMP_CHECKSUM;
	default:
		return 0;
	}
}

/* UDP alone may say that it has no checksum (0), and then keeps saying so. */
static __always_inline __u64 checksum_flags(__u8 protocol)
{
	return protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

/* The pseudo header changed by `difference`. Of IPv6 no header checksum makes up for it in a device's sum over the whole
 * packet (CHECKSUM_COMPLETE), so what the helper takes from that sum is put back; BPF_F_IPV6 says the same, but only to
 * kernels since 6.16.
 */
static __always_inline long sum_pseudo_header(struct __sk_buff *skb, const struct packet *packet, __u32 at,
					      __wsum difference)
{
	long failed = bpf_l4_csum_replace(skb, at, 0, difference, BPF_F_PSEUDO_HDR | checksum_flags(packet->tuple.protocol));

	if (packet->family == AF_INET6)
		bpf_csum_update(skb, difference);
	return failed;
}

static __always_inline long rewrite_addresses(struct __sk_buff *skb, const struct packet *packet, const struct tuple *to)
{
	__wsum difference =
		bpf_csum_diff((void *)&packet->tuple.source, BOTH_ADDRESSES, (void *)&to->source, BOTH_ADDRESSES, 0);
	__u32 place = packet->kind == PACKET_FRAGMENT ? 0 : checksum_place(packet->tuple.protocol);
	struct ipv4_ends ends;
	long failed = 0;

	if (place && packet->tuple.protocol != IPPROTO_ICMP)
		failed = sum_pseudo_header(skb, packet, packet->l4_offset + place, difference);
	if (packet->family == AF_INET6)
		return failed ?: bpf_skb_store_bytes(skb, IPV6_ADDRESSES, &to->source, BOTH_ADDRESSES, 0);
	ends = ipv4_ends(to);
	failed = failed ?: bpf_l3_csum_replace(skb, IPV4_CHECKSUM, 0, difference, 0);
	return failed ?: bpf_skb_store_bytes(skb, IPV4_ADDRESSES, &ends, sizeof(ends), 0);
}

/* The ports of TCP and UDP, the identifier of an echo. */
static __always_inline long rewrite_ports(struct __sk_buff *skb, const struct packet *packet, const struct tuple *to)
{
	__u32 checksum = packet->l4_offset + checksum_place(packet->tuple.protocol);
	__u32 identifier = packet->l4_offset + ICMP_ECHO_IDENTIFIER;
	long failed;

	if (packet->tuple.protocol == IPPROTO_TCP || packet->tuple.protocol == IPPROTO_UDP) {
		failed = bpf_l4_csum_replace(skb, checksum, both_ports(&packet->tuple), both_ports(to),
					     sizeof(__u32) | checksum_flags(packet->tuple.protocol));
		return failed ?: bpf_skb_store_bytes(skb, packet->l4_offset, &to->source_port, sizeof(__u32), 0);
	}
	failed = bpf_l4_csum_replace(skb, checksum, packet->tuple.source_port, to->source_port, sizeof(__be16));
	return failed ?: bpf_skb_store_bytes(skb, identifier, &to->source_port, sizeof(__be16), 0);
}

/* Makes the packet one from and to the ends of `to` (same family and protocol), and `packet` with it. Pointers into the
 * packet are void afterwards. An error: it is written in part, and fit to be dropped only. Global, so that the verifier looks
 * at it once and not once a path that leads to it.
 */
__weak __noinline int rewrite(struct __sk_buff *skb, struct packet *packet, const struct tuple *to)
{
	long failed = 0;

	if (!packet || !to)
		return -EINVAL;
	if (!address_equal(&packet->tuple.source, &to->source) ||
	    !address_equal(&packet->tuple.destination, &to->destination))
		failed = rewrite_addresses(skb, packet, to);
	if (!failed && packet->kind == PACKET_FLOW && both_ports(&packet->tuple) != both_ports(to))
		failed = rewrite_ports(skb, packet, to);
	packet->tuple = *to;
	return failed;
}
