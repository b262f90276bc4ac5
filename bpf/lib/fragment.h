/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The later fragments of a packet carry no ports: they get those of the first one. */
#pragma once

#include "lib/packet.h"

static __always_inline struct fragment_key fragment_key(const struct packet *packet)
{
	struct fragment_key key = {
		.source = packet->tuple.source,
		.destination = packet->tuple.destination,
		.identification = packet->identification,
		.protocol = packet->tuple.protocol,
	};

	return key;
}

/* The first fragment: before anything of it is rewritten, because the later ones come with its old addresses. */
static __noinline void fragment_remember(const struct packet *packet)
{
	struct fragment_key key = fragment_key(packet);
	struct fragment_ports ports = {
		.source_port = packet->tuple.source_port,
		.destination_port = packet->tuple.destination_port,
	};

	bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
}

/* A later fragment: completes its tuple. False: its first one did not come by, or not yet. */
static __noinline bool fragment_complete(struct packet *packet)
{
	struct fragment_key key = fragment_key(packet);
	const struct fragment_ports *ports = bpf_map_lookup_elem(&fragments, &key);

	if (!ports)
		return false;
	packet->tuple.source_port = ports->source_port;
	packet->tuple.destination_port = ports->destination_port;
	return true;
}
