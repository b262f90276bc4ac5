/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The headers of a frame, read once. */
#pragma once

#include "lib/packet.h"
#include "lib/wrap.h"

#define IPV6_EXTENSION_HEADERS 8
#define VLAN_NUMBER	       0x0fff

/* The first bytes of TCP, UDP and ICMP headers, as far as anybody looks. */
struct l4_head {
	__be16 source_port; /* of ICMP: type and code */
	__be16 destination_port;
	__be16 identifier; /* of ICMP echo */
	__u8 between[6];
	__u8 tcp_data_offset;
	__u8 tcp_flags;
};

static __always_inline void read_tcp(struct packet *packet, const struct l4_head *head, __u16 *l4_size)
{
	packet->kind = PACKET_FLOW;
	packet->tuple.source_port = head->source_port;
	packet->tuple.destination_port = head->destination_port;
	packet->tcp_flags = head->tcp_flags;
	packet->begins = (head->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	*l4_size = (head->tcp_data_offset >> 4) * 4;
}

static __always_inline void read_echo(struct packet *packet, const struct l4_head *head, bool request)
{
	packet->kind = PACKET_FLOW;
	packet->tuple.source_port = packet->tuple.destination_port = head->identifier;
	packet->begins = request;
}

static __always_inline void read_icmp4(struct packet *packet, const struct l4_head *head)
{
	__u8 type = ((const __u8 *)head)[0];

	packet->icmp_type = type;
	if (type == ICMP4_ECHO || type == ICMP4_ECHO_REPLY)
		read_echo(packet, head, type == ICMP4_ECHO);
	else if (type == ICMP4_UNREACHABLE || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER)
		packet->kind = PACKET_ICMP_ERROR;
}

static __always_inline void read_icmp6(struct packet *packet, const struct l4_head *head)
{
	__u8 type = ((const __u8 *)head)[0];

	packet->icmp_type = type;
	if (type == ICMP6_ECHO || type == ICMP6_ECHO_REPLY)
		read_echo(packet, head, type == ICMP6_ECHO);
	else if (type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER)
		packet->kind = PACKET_ICMP_ERROR;
	else if ((type >= ICMP6_LISTENER_QUERY && type <= ICMP6_REDIRECT) || type == ICMP6_LISTENER_REPORT_V2)
		packet->kind = PACKET_NEIGHBOUR;
}

/* The head of a transport header that begins at `offset`. Read in place where it can be: half the price of a helper. */
static __always_inline bool copy_l4(struct __sk_buff *skb, __u32 l3, __u32 offset, struct l4_head *head, __u32 needed)
{
	const void *at = (void *)(long)skb->data + l3 + sizeof(struct iphdr);

	if (offset == l3 + sizeof(struct iphdr) && at + sizeof(*head) <= (void *)(long)skb->data_end) {
		__builtin_memcpy(head, at, sizeof(*head));
		return true;
	}
	at = (void *)(long)skb->data + l3 + sizeof(struct ipv6hdr);
	if (offset == l3 + sizeof(struct ipv6hdr) && at + sizeof(*head) <= (void *)(long)skb->data_end) {
		__builtin_memcpy(head, at, sizeof(*head));
		return true;
	}
	return !bpf_skb_load_bytes(skb, offset, head, needed);
}

/* Ports, flags and kind from the transport header at l4_offset. */
static __always_inline void read_l4(struct __sk_buff *skb, __u32 l3, struct packet *packet)
{
	struct l4_head head = {};
	__u16 l4_size = 8;
	/* UDP and ICMP end after 8 bytes of header, and may be no longer. */
	__u32 needed = packet->tuple.protocol == IPPROTO_TCP ? sizeof(head) : 8;

	packet->kind = PACKET_OTHER;
	if (packet->tuple.protocol != IPPROTO_TCP && packet->tuple.protocol != IPPROTO_UDP &&
	    packet->tuple.protocol != IPPROTO_ICMP && packet->tuple.protocol != IPPROTO_ICMPV6)
		return;
	if (!copy_l4(skb, l3, packet->l4_offset, &head, needed)) {
		packet->kind = PACKET_MALFORMED;
		return;
	}
	switch (packet->tuple.protocol) {
	case IPPROTO_TCP:
		read_tcp(packet, &head, &l4_size);
		break;
	case IPPROTO_UDP:
		packet->kind = PACKET_FLOW;
		packet->tuple.source_port = head.source_port;
		packet->tuple.destination_port = head.destination_port;
		packet->begins = true;
		break;
	case IPPROTO_ICMP:
		if (packet->family == AF_INET)
			read_icmp4(packet, &head);
		break;
	case IPPROTO_ICMPV6:
		if (packet->family == AF_INET6)
			read_icmp6(packet, &head);
		break;
	}
	if (skb->gso_size)
		packet->size = packet->l4_offset - l3 + l4_size + skb->gso_size;
}

/* The headers of the network layer at the start, made readable without a copy where they are spread over fragments. */
static __always_inline bool has_bytes(struct __sk_buff *skb, __u32 needed)
{
	if ((void *)(long)skb->data + needed <= (void *)(long)skb->data_end)
		return true;
	return skb->len >= needed && !bpf_skb_pull_data(skb, needed);
}

/* A network header that begins at `l3`. */
static __always_inline void parse_v4(struct __sk_buff *skb, __u32 l3, struct packet *packet)
{
	const struct iphdr *ip;
	__u32 header_size, size;
	__u16 fragment;

	packet->family = AF_INET;
	packet->kind = PACKET_MALFORMED;
	if (!has_bytes(skb, l3 + sizeof(*ip)))
		return;
	ip = (void *)(long)skb->data + l3;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return;
	header_size = ip->ihl * 4;
	/* A GSO packet may be larger than its field can say (net/ipv4/ip_output.c, BIG TCP): then it is zero. */
	size = ip->tot_len ? bpf_ntohs(ip->tot_len) : skb->len - l3;
	if (ip->version != 4 || header_size < sizeof(*ip) || size < header_size || l3 + size > skb->len)
		return;
	packet->tuple.source = address_v4(ip->saddr);
	packet->tuple.destination = address_v4(ip->daddr);
	packet->tuple.protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->size = size;
	packet->l4_offset = l3 + header_size;
	packet->options = header_size > sizeof(*ip);
	fragment = bpf_ntohs(ip->frag_off) & 0x3fff; /* more fragments, offset */
	packet->fragmented = fragment;
	packet->identification = fragment ? ip->id : 0;
	if (fragment & 0x1fff)
		packet->kind = PACKET_FRAGMENT;
	else
		read_l4(skb, l3, packet);
}

/* Moves l4_offset behind the extension headers; false: more of them than anybody sends, or cut off. */
static __noinline bool skip_extensions(struct __sk_buff *skb, struct packet *packet)
{
	struct ipv6_extension extension;
	__u32 offset = packet->l4_offset;
	__u8 protocol = packet->tuple.protocol;

	for (int i = 0; i < IPV6_EXTENSION_HEADERS; i++) {
		if (protocol != IPPROTO_HOPOPTS && protocol != IPPROTO_ROUTING && protocol != IPPROTO_DSTOPTS &&
		    protocol != IPPROTO_FRAGMENT && protocol != IPPROTO_AH) {
			packet->l4_offset = offset;
			packet->tuple.protocol = protocol;
			return true;
		}
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return false;
		if (protocol == IPPROTO_FRAGMENT) {
			packet->fragmented = true;
			packet->identification = extension.identification;
			if (extension.fragment_offset & bpf_htons(0xfff8)) {
				packet->kind = PACKET_FRAGMENT;
				packet->tuple.protocol = extension.next_header;
				packet->l4_offset = offset + 8;
				return true;
			}
			offset += 8;
		} else if (protocol == IPPROTO_AH) {
			offset += (extension.size + 2) * 4;
		} else {
			offset += (extension.size + 1) * 8;
		}
		protocol = extension.next_header;
	}
	return false;
}

static __always_inline void parse_v6(struct __sk_buff *skb, __u32 l3, struct packet *packet)
{
	const struct ipv6hdr *ip;
	__u32 size;

	packet->family = AF_INET6;
	packet->kind = PACKET_MALFORMED;
	if (!has_bytes(skb, l3 + sizeof(*ip)))
		return;
	ip = (void *)(long)skb->data + l3;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return;
	/* Zero in a jumbogram, which GSO packets above 64 kB are. */
	size = ip->payload_len ? bpf_ntohs(ip->payload_len) + sizeof(*ip) : skb->len - l3;
	if (ip->version != 6 || l3 + size > skb->len)
		return;
	__builtin_memcpy(&packet->tuple.source, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(&packet->tuple.destination, &ip->daddr, sizeof(ip->daddr));
	/* To the maps these are IPv4's own; on a wire nobody has them (draft-itojun-v6ops-v4mapped-harmful). */
	if (address_is_v4(&packet->tuple.source) || address_is_v4(&packet->tuple.destination))
		return;
	packet->tuple.protocol = ip->nexthdr;
	packet->ttl = ip->hop_limit;
	packet->size = size;
	packet->l4_offset = l3 + sizeof(*ip);
	if (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP && ip->nexthdr != IPPROTO_ICMPV6 &&
	    !skip_extensions(skb, packet))
		return;
	if (packet->kind != PACKET_FRAGMENT)
		read_l4(skb, l3, packet);
}

/* A VLAN tag with number 0 says a priority, and no more (IEEE 802.1Q, 9.6): the stack takes it off and reads on, and so it
 * must be off before we read. False: there is another one within, which the stack would take off, too.
 */
static __always_inline bool without_priority_tag(struct __sk_buff *skb)
{
	if (!skb->vlan_present || skb->vlan_tci & VLAN_NUMBER)
		return true;
	return !bpf_skb_vlan_pop(skb) && (!skb->vlan_present || skb->vlan_tci & VLAN_NUMBER);
}

/* Fills `packet`, whatever the frame is; packet->kind says how much of it holds. Global: the verifier looks at it by itself,
 * and does not follow each of its many ends through the rest of the program.
 */
__weak __noinline enum packet_kind parse(struct __sk_buff *skb, struct packet *packet)
{
	if (!packet)
		return PACKET_MALFORMED;
	*packet = (struct packet){};
	packet->frame_size = skb->len;
	if (skb->vlan_present)
		packet->kind = PACKET_OTHER_LINK;
	else if (skb->protocol == bpf_htons(ETH_P_IP))
		parse_v4(skb, L3_OFFSET, packet);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		parse_v6(skb, L3_OFFSET, packet);
	else if (skb->protocol == bpf_htons(ETH_P_ARP))
		packet->kind = PACKET_ARP;
	return packet->kind;
}

/* The same of the packet of that kind (ETH_P_) in a tunnelled one, as it will be when its outside is taken off. */
__weak __noinline enum packet_kind parse_wrapped(struct __sk_buff *skb, __be16 kind, struct packet *packet)
{
	if (!packet)
		return PACKET_MALFORMED;
	*packet = (struct packet){};
	packet->frame_size = skb->len - WRAPPING;
	if (kind == bpf_htons(ETH_P_IP))
		parse_v4(skb, WRAPPED_L3, packet);
	else if (kind == bpf_htons(ETH_P_IPV6))
		parse_v6(skb, WRAPPED_L3, packet);
	packet->l4_offset -= WRAPPING;
	return packet->kind;
}
