/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services for packets whose sockets no hook of socket_lb sees: the same frontends, lists and affinities, at the packet. */
#pragma once

#include "maps/socket_lb.h"
#include "lib/balance.h"
#include "lib/translation.h"

static __always_inline struct endpoint endpoint_of(const struct address *address, __be16 port, __u8 protocol)
{
	struct endpoint made = {
		.port = port,
		.protocol = protocol,
	};

	__builtin_memcpy(made.address, address, sizeof(made.address));
	return made;
}

/* Stands for a client outside where a pod's would be its namespace's cookie, which counts up from 1: affinity by address.
 * Two IPv6 clients may share a number, and then they share a backend.
 */
static __always_inline __u64 client_outside(const struct address *source)
{
	return (1ULL << 63) | (address_half(source, 0) * 31 + address_half(source, 1));
}

/* Where a new flow to a frontend goes: `flow` gets the backend as destination, and FLOW_SERVICE. DROP_NONE without that flag:
 * it goes to no frontend.
 */
__weak __noinline enum drop_reason serve(const struct tuple *tuple, __u64 client, struct flow *flow)
{
	struct endpoint frontend, backend = {};
	const struct service *service;
	bool found;

	if (!tuple || !flow)
		return DROP_NO_BACKEND;
	frontend = endpoint_of(&tuple->destination, tuple->destination_port, tuple->protocol);
	if (tuple->protocol != IPPROTO_TCP && tuple->protocol != IPPROTO_UDP)
		return DROP_NONE;
	service = find_service(&frontend);
	if (!service)
		return DROP_NONE;
	if (service->affinity_timeout_s)
		found = choose_sticky(&frontend, service, client, &backend);
	else
		found = choose(&frontend, service, &backend);
	if (!found) {
		count(SOCKET_LB_NO_BACKEND);
		return DROP_NO_BACKEND;
	}
	count(SOCKET_LB_TRANSLATED);
	__builtin_memcpy(&flow->other.destination, backend.address, sizeof(flow->other.destination));
	flow->other.destination_port = backend.port;
	flow->flags |= FLOW_SERVICE;
	/* The backend is the client itself: it would answer itself, past us, if it saw its own address. */
	if (address_equal(&flow->other.destination, &tuple->source))
		flow->other.source = tuple->destination;
	return DROP_NONE;
}

/* Whether a flow of datagrams goes to a backend that does not serve the frontend (any more): it has no end at which it would
 * choose anew, as connections have.
 */
static __noinline bool service_lapsed(const struct tuple *tuple, const struct flow *flow)
{
	struct endpoint frontend, backend;
	const struct service *service;

	if (tuple->protocol != IPPROTO_UDP || !(flow->flags & FLOW_SERVICE))
		return false;
	frontend = endpoint_of(&tuple->destination, tuple->destination_port, IPPROTO_UDP);
	backend = endpoint_of(&flow->other.destination, flow->other.destination_port, IPPROTO_UDP);
	service = find_service(&frontend);
	return !service || !is_member(list_of(service).number, &backend);
}
