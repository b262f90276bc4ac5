/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the agent says of an address: who has it, and how it is reached. */
#pragma once

#include "maps/pod_network.h"

/* NULL: nothing is said, so it is the world's. */
static __always_inline const struct destination *destination_of(const struct address *address)
{
	struct destination_key key = {
		.prefix_length = 128,
		.address = *address,
	};

	return bpf_map_lookup_elem(&destinations, &key);
}

static __always_inline enum destination_kind destination_kind(const struct address *address)
{
	const struct destination *destination = destination_of(address);

	return destination ? destination->kind : DESTINATION_WORLD;
}
