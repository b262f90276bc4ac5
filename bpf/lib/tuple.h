/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Both ends of a packet, and the one key that stands for both directions between them. */
#pragma once

#include "lib/packet.h"

static __always_inline struct tuple tuple_reverse(const struct tuple *tuple)
{
	struct tuple made = {
		.source = tuple->destination,
		.destination = tuple->source,
		.source_port = tuple->destination_port,
		.destination_port = tuple->source_port,
		.protocol = tuple->protocol,
	};

	return made;
}

/* Whether the source is the larger endpoint, compared as bytes: address, then port. */
static __always_inline bool tuple_is_reversed(const struct tuple *tuple)
{
	__u64 source = address_half(&tuple->source, 0), destination = address_half(&tuple->destination, 0);

	if (source == destination) {
		source = address_half(&tuple->source, 1);
		destination = address_half(&tuple->destination, 1);
	}
	if (source == destination) {
		source = tuple->source_port;
		destination = tuple->destination_port;
		return bpf_ntohs(source) > bpf_ntohs(destination);
	}
	return bpf_be64_to_cpu(source) > bpf_be64_to_cpu(destination);
}

/* The key of both directions; true: the tuple is the reverse of it. */
static __always_inline bool flow_key(const struct tuple *tuple, struct tuple *key)
{
	bool reversed = tuple_is_reversed(tuple);

	/* Half by half: a whole tuple in between would be 40 bytes of stack in every function that asks for a key. */
	key->source = reversed ? tuple->destination : tuple->source;
	key->destination = reversed ? tuple->source : tuple->destination;
	key->source_port = reversed ? tuple->destination_port : tuple->source_port;
	key->destination_port = reversed ? tuple->source_port : tuple->destination_port;
	key->protocol = tuple->protocol;
	__builtin_memset(key->pad, 0, sizeof(key->pad));
	return reversed;
}

/* The same for who is in no hurry. Global, so that the verifier follows none of its ends through the rest of a program. */
__weak __noinline int find_key(const struct tuple *tuple, struct tuple *key)
{
	if (!tuple || !key)
		return false;
	return flow_key(tuple, key);
}

static __always_inline bool tuple_equal(const struct tuple *a, const struct tuple *b)
{
	return address_equal(&a->source, &b->source) && address_equal(&a->destination, &b->destination) &&
	       a->source_port == b->source_port && a->destination_port == b->destination_port && a->protocol == b->protocol;
}
