/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* An ICMP error quotes a packet: who gets it must recognise what it sent, so the quotation of a translated flow is translated
 * back, and the ends of the error itself with it.
 *
 * What is quoted may end 8 bytes behind the IP header (RFC 792). The checksum of the error covers the quotation; those within
 * the quotation are put right as far as they are there.
 */
#pragma once

#include "lib/flow.h"
#include "lib/rewrite.h"

#define ICMP_HEADER	     8
#define IPV6_FRAGMENT_HEADER 8
#define QUOTED_BYTES	     8 /* of the transport header: at least as many are there */

/* The quoted packet: where its headers are and what it was. */
struct quotation {
	struct tuple tuple;
	__u32 l3_offset;
	__u32 l4_offset;
};

enum icmp_error_outcome {
	ICMP_ERROR_AS_IT_IS,   /* about a flow that is not translated */
	ICMP_ERROR_TRANSLATED, /* the packet is changed: pointers into it are void */
	ICMP_ERROR_BROKEN,     /* it was changed in part: to be dropped */
	ICMP_ERROR_UNKNOWN,    /* about no flow of ours */
};

static __always_inline bool quoted_v4(struct __sk_buff *skb, struct quotation *quoted)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, quoted->l3_offset, &ip, sizeof(ip)))
		return false;
	if (ip.version != 4 || ip.ihl < 5 || ip.frag_off & bpf_htons(0x1fff))
		return false;
	quoted->tuple.source = address_v4(ip.saddr);
	quoted->tuple.destination = address_v4(ip.daddr);
	quoted->tuple.protocol = ip.protocol;
	quoted->l4_offset = quoted->l3_offset + ip.ihl * 4;
	return true;
}

static __always_inline bool quoted_v6(struct __sk_buff *skb, struct quotation *quoted)
{
	struct ipv6_extension fragment;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, quoted->l3_offset, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	__builtin_memcpy(&quoted->tuple.source, &ip.saddr, sizeof(ip.saddr));
	__builtin_memcpy(&quoted->tuple.destination, &ip.daddr, sizeof(ip.daddr));
	quoted->tuple.protocol = ip.nexthdr;
	quoted->l4_offset = quoted->l3_offset + sizeof(ip);
	if (ip.nexthdr != IPPROTO_FRAGMENT)
		return true;
	if (bpf_skb_load_bytes(skb, quoted->l4_offset, &fragment, sizeof(fragment)) ||
	    fragment.fragment_offset & bpf_htons(0xfff8))
		return false;
	quoted->tuple.protocol = fragment.next_header;
	quoted->l4_offset += IPV6_FRAGMENT_HEADER;
	return true;
}

/* False: not enough of it is there to say which flow it was of. */
static __noinline bool quoted_packet(struct __sk_buff *skb, const struct packet *packet, struct quotation *quoted)
{
	__be16 head[QUOTED_BYTES / 2];

	*quoted = (struct quotation){ .l3_offset = packet->l4_offset + ICMP_HEADER };
	if (packet->family == AF_INET ? !quoted_v4(skb, quoted) : !quoted_v6(skb, quoted))
		return false;
	if (bpf_skb_load_bytes(skb, quoted->l4_offset, head, sizeof(head)))
		return false;
	switch (quoted->tuple.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		quoted->tuple.source_port = head[0];
		quoted->tuple.destination_port = head[1];
		return true;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		quoted->tuple.source_port = quoted->tuple.destination_port = head[ICMP_ECHO_IDENTIFIER / 2];
		return true;
	default:
		return false;
	}
}

/* What the quoted packet was before it was translated, in `before` where that is ICMP_ERROR_TRANSLATED. A pod (`of_pod`) may
 * speak of what it was sent only: it could end the flows of others else.
 */
static __noinline enum icmp_error_outcome quoted_before(const struct packet *packet, const struct tuple *quoted, bool of_pod,
							struct tuple *before)
{
	struct flow_view view;

	if (of_pod && !address_equal(&packet->tuple.source, &quoted->destination))
		return ICMP_ERROR_UNKNOWN;
	if (!flow_find(quoted, &view))
		return ICMP_ERROR_UNKNOWN;
	if (view.place == FLOW_PLACE_SENT_TRANSLATED)
		*before = view.entry->other;
	else if (view.place == FLOW_PLACE_ANSWERED_TRANSLATED && view.entry->flags & FLOW_TRANSLATED)
		*before = tuple_reverse(&view.entry->other);
	else
		return ICMP_ERROR_AS_IT_IS;
	return ICMP_ERROR_TRANSLATED;
}

/* Checksum `sum` after `difference` was added to what it covers (RFC 1624). */
static __always_inline __sum16 sum_after(__sum16 sum, __wsum difference)
{
	__u64 total = (__u64)(__u16)~sum + difference;

	total = (total & 0xffff) + ((total >> 16) & 0xffff) + (total >> 32);
	total = (total & 0xffff) + (total >> 16);
	total = (total & 0xffff) + (total >> 16);
	return ~total;
}

static __always_inline __wsum sum_add(__wsum a, __wsum b)
{
	__wsum sum = a + b;

	return sum + (sum < b);
}

/* Writes at most 32 bytes, and adds what that changes to `difference`. */
static __always_inline long write_quoted(struct __sk_buff *skb, __u32 at, void *from, void *to, __u32 size,
					 __wsum *difference)
{
	*difference = bpf_csum_diff(from, size, to, size, *difference);
	return bpf_skb_store_bytes(skb, at, to, size, 0);
}

/* Puts the checksum at `at` right, where it is there. A UDP checksum of zero stays: it says that there is none. */
static __noinline long sum_quoted(struct __sk_buff *skb, __u32 at, __wsum change, bool udp, __wsum *difference)
{
	/* Together with the two bytes before it: the helper takes four. */
	__sum16 words[2], changed[2];

	if (bpf_skb_load_bytes(skb, at - sizeof(__sum16), words, sizeof(words)) || (udp && !words[1]))
		return 0;
	changed[0] = words[0];
	changed[1] = sum_after(words[1], change);
	if (udp && !changed[1])
		changed[1] = 0xffff;
	return write_quoted(skb, at - sizeof(__sum16), words, changed, sizeof(words), difference);
}

static __noinline long quote_addresses(struct __sk_buff *skb, const struct quotation *quoted, const struct tuple *before,
				       __wsum change, __wsum *difference)
{
	struct ipv4_ends from, to;
	long failed;

	if (!address_is_v4(&before->source))
		return write_quoted(skb, quoted->l3_offset + offsetof(struct ipv6hdr, saddr), (void *)&quoted->tuple.source,
				    (void *)&before->source, BOTH_ADDRESSES, difference);
	from = ipv4_ends(&quoted->tuple);
	to = ipv4_ends(before);
	failed = write_quoted(skb, quoted->l3_offset + offsetof(struct iphdr, saddr), &from, &to, sizeof(from), difference);
	return failed ?: sum_quoted(skb, quoted->l3_offset + offsetof(struct iphdr, check), change, false, difference);
}

static __noinline long quote_ports(struct __sk_buff *skb, const struct quotation *quoted, const struct tuple *before,
				   __wsum *difference)
{
	__be16 from[2] = { quoted->tuple.source_port }, to[2] = { before->source_port };

	if (is_echo(before)) {
		*difference = bpf_csum_diff((void *)from, sizeof(from), (void *)to, sizeof(to), *difference);
		return bpf_skb_store_bytes(skb, quoted->l4_offset + ICMP_ECHO_IDENTIFIER, to, sizeof(to[0]), 0);
	}
	from[1] = quoted->tuple.destination_port;
	to[1] = before->destination_port;
	return write_quoted(skb, quoted->l4_offset, from, to, sizeof(from), difference);
}

/* Makes the quotation what `before` was; `difference` is by how much the sum over it changed. */
static __noinline long quote(struct __sk_buff *skb, const struct quotation *quoted, const struct tuple *before,
			     __wsum *difference)
{
	__wsum addresses =
		bpf_csum_diff((void *)&quoted->tuple.source, BOTH_ADDRESSES, (void *)&before->source, BOTH_ADDRESSES, 0);
	__wsum ports = 0, covered;
	long failed = quote_addresses(skb, quoted, before, addresses, difference);

	failed = failed ?: quote_ports(skb, quoted, before, &ports);
	*difference = sum_add(*difference, ports);
	/* The quoted packet's own checksum: of ICMP for IPv4 it covers no addresses. */
	covered = before->protocol == IPPROTO_ICMP ? ports : sum_add(ports, addresses);
	return failed
		       ?: sum_quoted(skb, quoted->l4_offset + checksum_place(before->protocol), covered,
				     before->protocol == IPPROTO_UDP, difference);
}

static __always_inline struct address end_before(const struct address *end, const struct tuple *quoted,
						 const struct tuple *before)
{
	if (address_equal(end, &quoted->source))
		return before->source;
	if (address_equal(end, &quoted->destination))
		return before->destination;
	return *end;
}

/* Translates an error back, as far as it is about a translated flow. Its ends are those of the flow where they were the
 * quoted ones; who reports from in between keeps its address.
 */
__weak __noinline enum icmp_error_outcome icmp_error_translate(struct __sk_buff *skb, struct packet *packet, bool of_pod)
{
	enum icmp_error_outcome outcome;
	struct tuple before, ends;
	struct quotation quoted;
	__wsum difference = 0;
	__u32 checksum;

	if (!packet)
		return ICMP_ERROR_BROKEN;
	ends = packet->tuple;
	checksum = packet->l4_offset + ICMP_CHECKSUM;
	if (!quoted_packet(skb, packet, &quoted))
		return ICMP_ERROR_UNKNOWN;
	outcome = quoted_before(packet, &quoted.tuple, of_pod, &before);
	if (outcome != ICMP_ERROR_TRANSLATED)
		return outcome;
	ends.source = end_before(&packet->tuple.source, &quoted.tuple, &before);
	ends.destination = end_before(&packet->tuple.destination, &quoted.tuple, &before);
	if (quote(skb, &quoted, &before, &difference) || bpf_l4_csum_replace(skb, checksum, 0, difference, 0) ||
	    rewrite(skb, packet, &ends))
		return ICMP_ERROR_BROKEN;
	return ICMP_ERROR_TRANSLATED;
}
