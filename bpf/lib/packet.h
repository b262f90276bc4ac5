/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the headers of a frame say: every decision is about a struct packet. `parse.h` reads one. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "maps/pod_network.h"
#include "maps/socket_lb.h"
#include "lib/endpoint.h"

/* Frames have an Ethernet header: the agent attaches to no device without one. */
#define L3_OFFSET ETH_HLEN

enum packet_kind {
	PACKET_OTHER_LINK, /* neither of the following: VLAN, MPLS, ... */
	PACKET_ARP,
	PACKET_MALFORMED,  /* what it says of its own length is not true */
	PACKET_NEIGHBOUR,  /* IPv6 neighbour discovery and multicast listeners: only on this link */
	PACKET_FLOW,	   /* TCP, UDP, ICMP echo: the tuple is complete */
	PACKET_ICMP_ERROR, /* about another packet, whose head begins 8 bytes after l4_offset; no ports */
	PACKET_FRAGMENT,   /* not the first one of its packet: no ports. The protocol may be any */
	PACKET_OTHER,	   /* another protocol or ICMP message: no ports */
};

enum tcp_flag {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

enum icmp_type {
	ICMP4_ECHO_REPLY = 0,
	ICMP4_UNREACHABLE = 3,
	ICMP4_ECHO = 8,
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER = 12,
	ICMP6_UNREACHABLE = 1,
	ICMP6_PARAMETER = 4,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_LISTENER_QUERY = 130,
	ICMP6_NEIGHBOUR_SOLICITATION = 135,
	ICMP6_NEIGHBOUR_ADVERTISEMENT = 136,
	ICMP6_REDIRECT = 137,
	ICMP6_LISTENER_REPORT_V2 = 143,
};

struct packet {
	struct tuple tuple;   /* as the packet is, not in canonical order */
	__u32 identification; /* of a fragmented packet, in network order; 0 where it is not fragmented */
	__u32 frame_size;
	__u16 size;	 /* of the IP packet, or of each that a GSO packet becomes: what a link's MTU is compared with */
	__u16 l4_offset; /* from the start of the frame */
	__u8 kind;	 /* enum packet_kind */
	__u8 family;	 /* AF_INET or AF_INET6; 0 where there is no IP header */
	__u8 ttl;	 /* or hop limit */
	__u8 tcp_flags;	 /* enum tcp_flag, else 0 */
	__u8 icmp_type;	 /* else 0 */
	bool begins;	 /* may be the first packet of a flow: SYN without ACK, UDP, echo request */
	bool fragmented; /* it is the first or a later fragment */
	bool options;	 /* of IPv4: a source route, a record, an alert for each router on the way */
};

static __always_inline struct address address_v4(__be32 word)
{
	struct address made = {};
	__be32 prefix = bpf_htonl(0xffff);

	__builtin_memcpy(&made.bytes[8], &prefix, sizeof(prefix));
	__builtin_memcpy(&made.bytes[12], &word, sizeof(word));
	return made;
}

/* The 64 bits at `index`, in memory order. */
static __always_inline __u64 address_half(const struct address *address, int index)
{
	__u64 half;

	__builtin_memcpy(&half, &address->bytes[index * 8], sizeof(half));
	return half;
}

/* The IPv4 address, in network order. */
static __always_inline __be32 address_to_v4(const struct address *address)
{
	__be32 word;

	__builtin_memcpy(&word, &address->bytes[12], sizeof(word));
	return word;
}

static __always_inline bool address_equal(const struct address *a, const struct address *b)
{
	return address_half(a, 0) == address_half(b, 0) && address_half(a, 1) == address_half(b, 1);
}

static __always_inline bool address_is_zero(const struct address *address)
{
	return !(address_half(address, 0) | address_half(address, 1));
}

static __always_inline bool address_is_v4(const struct address *address)
{
	return !address_half(address, 0) && !address->bytes[8] && !address->bytes[9] && address->bytes[10] == 0xff &&
	       address->bytes[11] == 0xff;
}

static __always_inline bool address_is_link_local_v6(const struct address *address)
{
	return address->bytes[0] == 0xfe && (address->bytes[1] & 0xc0) == 0x80;
}

static __always_inline bool address_is_multicast_v6(const struct address *address)
{
	return address->bytes[0] == 0xff;
}

/* The first of an IPv6 extension header; the last two fields are those of a fragment header. */
struct ipv6_extension {
	__u8 next_header;
	__u8 size; /* in 8 bytes, after the first 8; of AH in 4 bytes, after the first 8 */
	__be16 fragment_offset;
	__be32 identification;
};
