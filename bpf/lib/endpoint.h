/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses and ports in the one form the maps hold. Needs struct endpoint (maps/socket_lb.h). */
#pragma once

/* include/linux/socket.h, which is not for programs. */
#define AF_INET	 2
#define AF_INET6 10

/* Not every clang that can target bpf ships <stdbool.h>. */
typedef _Bool bool;
enum { false, true };

static __always_inline struct endpoint endpoint_v6(const __u32 words[4], __u32 port, __u32 protocol)
{
	struct endpoint made = {
		.port = (__be16)port,
		.protocol = (__u8)protocol,
	};

	__builtin_memcpy(made.address, words, sizeof(made.address));
	return made;
}

static __always_inline struct endpoint endpoint_v4(__be32 address, __u32 port, __u32 protocol)
{
	__u32 words[4] = { 0, 0, bpf_htonl(0xffff), address };

	return endpoint_v6(words, port, protocol);
}

/* The 32 bits at `index` of the address, in network order; index 3 is the IPv4 address. */
static __always_inline __be32 endpoint_word(const struct endpoint *endpoint, int index)
{
	__be32 word;

	__builtin_memcpy(&word, &endpoint->address[index * 4], sizeof(word));
	return word;
}

static __always_inline bool endpoint_equal(const struct endpoint *a, const struct endpoint *b)
{
	return endpoint_word(a, 0) == endpoint_word(b, 0) && endpoint_word(a, 1) == endpoint_word(b, 1) &&
	       endpoint_word(a, 2) == endpoint_word(b, 2) && endpoint_word(a, 3) == endpoint_word(b, 3) &&
	       a->port == b->port && a->protocol == b->protocol;
}
