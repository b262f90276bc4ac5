/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tunnelled packets without the tunnel's device: what stands outside is written here and sent out of the uplink at once, and
 * taken off where it comes in, so that neither node's stack sees two packets for one.
 *
 * On the wire it is what the device would have sent (RFC 7348 over IPv4, no UDP checksum, ECN as in RFC 6040). Whatever is not
 * plain goes through the device, which knows all of it: nodes in IPv6, datagrams that are cut only on their way out (UDP GSO),
 * tunnels within the tunnel, a congestion mark on the outside, outer checksums, fragments, options.
 *
 * Bytes of the kernel's own note about a packet stay behind when its outside is taken off (skb->encapsulation, the tunnel bit
 * of gso_type: no program can clear them before Linux 7). TCP is delivered, forwarded and cut as if they were not there
 * (tcp4_gso_segment asks for neither), UDP GSO is not, so that is the device's, too.
 */
#pragma once

#include <linux/udp.h>
#include "lib/packet.h"

/* RFC 7348, 5. */
struct vxlan {
	__be32 flags;
	__be32 number; /* in the upper 24 bits */
};

#define VXLAN_HAS_NUMBER bpf_htonl(0x08000000)

/* What is around the inner network header, behind the link header of the frame. */
#define WRAPPED_UDP	 (L3_OFFSET + sizeof(struct iphdr))
#define WRAPPED_VXLAN	 (WRAPPED_UDP + sizeof(struct udphdr))
#define WRAPPED_ETHERNET (WRAPPED_VXLAN + sizeof(struct vxlan))
#define WRAPPED_L3	 (WRAPPED_ETHERNET + ETH_HLEN)
#define WRAPPING	 (WRAPPED_L3 - L3_OFFSET)

/* include/uapi/linux/bpf.h of Linux 6.3 and newer; older ones refuse it. */
#define DECAP_L3_IPV6 (1ULL << 8)

#define TUNNEL_TTL    64
#define ECN_MASK      3
#define ECN_MARKED    3
#define ECN_CAPABLE   2 /* ECT(0) */

const volatile __u16 tunnel_port = 8472;

/* The source port says which flow it is to whoever spreads packets over links (RFC 7348, 5). */
static __always_inline __be16 wrapping_port(struct __sk_buff *skb)
{
	return bpf_htons(0x8000 | (bpf_get_hash_recalc(skb) >> 17));
}

static __always_inline __u16 ipv4_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < sizeof(*ip) / sizeof(*words); i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

/* A congestion mark is the inner packet's own affair (RFC 6040, 4.1, compatibility mode apart). */
static __always_inline __u8 outer_ecn(__u8 inner)
{
	return (inner & ECN_MASK) == ECN_MARKED ? ECN_CAPABLE : inner & ECN_MASK;
}

static __always_inline __u8 traffic_class(const void *l3, __u8 family)
{
	const __u8 *bytes = l3;

	return family == AF_INET ? bytes[1] : (bytes[0] << 4 | bytes[1] >> 4);
}

/* Room for the outside. False: the packet is as it was, and one for the device. */
static __always_inline bool make_room(struct __sk_buff *skb, const struct packet *packet)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		      BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN);

	if (skb->gso_size && packet->tuple.protocol != IPPROTO_TCP)
		return false;
	return skb->len - L3_OFFSET + WRAPPING <= 0xffff && !bpf_skb_adjust_room(skb, WRAPPING, BPF_ADJ_ROOM_MAC, flags);
}

/* Fills the room that was made, from `own` to the way's node; the link header is whoever's sends it. False never happens. */
static __always_inline bool write_outside(struct __sk_buff *skb, const struct packet *packet, const struct way *way,
					  __be32 own, __be16 port)
{
	__u32 size = skb->len - L3_OFFSET;
	struct ethhdr *outer = (void *)(long)skb->data, *inner = (void *)outer + WRAPPED_ETHERNET;
	struct vxlan *vxlan = (void *)outer + WRAPPED_VXLAN;
	struct udphdr *udp = (void *)outer + WRAPPED_UDP;
	struct iphdr *ip = (void *)outer + L3_OFFSET;

	if ((void *)outer + WRAPPED_L3 + 2 > (void *)(long)skb->data_end)
		return false;
	__builtin_memcpy(inner, outer, 2 * ETH_ALEN);
	inner->h_proto = packet->family == AF_INET ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	outer->h_proto = bpf_htons(ETH_P_IP);
	*ip = (struct iphdr){
		.version = 4,
		.ihl = sizeof(*ip) / 4,
		.tos = outer_ecn(traffic_class((void *)outer + WRAPPED_L3, packet->family)),
		.tot_len = bpf_htons(size),
		.id = (__be16)bpf_get_prandom_u32(),
		.ttl = TUNNEL_TTL,
		.protocol = IPPROTO_UDP,
		.saddr = own,
		.daddr = way->node,
	};
	ip->check = ipv4_checksum(ip);
	*udp = (struct udphdr){
		.source = port,
		.dest = bpf_htons(tunnel_port),
		.len = bpf_htons(size - sizeof(*ip)),
	};
	*vxlan = (struct vxlan){
		.flags = VXLAN_HAS_NUMBER,
		.number = bpf_htonl(way->identity << 8),
	};
	return true;
}

/* The inner link header is of no interest, what follows is the frame's. False: the packet is as it was. */
static __always_inline bool unwrap(struct __sk_buff *skb, __u8 family)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | (family == AF_INET ? 0 : DECAP_L3_IPV6);
	__be16 kind = family == AF_INET ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);

	if (bpf_skb_adjust_room(skb, -(__s32)WRAPPING, BPF_ADJ_ROOM_MAC, flags))
		return false;
	bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &kind, sizeof(kind), 0);
	return true;
}

/* What is said outside of a packet that is plainly one in a tunnel. False: it is not, or not plainly. */
static __always_inline bool read_wrapping(struct __sk_buff *skb, const struct packet *outer, __u32 *identity, __be16 *kind)
{
	const void *data = (void *)(long)skb->data;
	const struct vxlan *vxlan = data + WRAPPED_VXLAN;
	const struct ethhdr *ethernet = data + WRAPPED_ETHERNET;
	const struct udphdr *udp = data + WRAPPED_UDP;
	const struct iphdr *ip = data + L3_OFFSET;

	if (outer->family != AF_INET || outer->fragmented || outer->l4_offset != WRAPPED_UDP)
		return false;
	if (data + WRAPPED_L3 > (void *)(long)skb->data_end)
		return false;
	if (udp->check || (ip->tos & ECN_MASK) == ECN_MARKED || vxlan->flags != VXLAN_HAS_NUMBER)
		return false;
	*identity = bpf_ntohl(vxlan->number) >> 8;
	*kind = ethernet->h_proto;
	return true;
}
