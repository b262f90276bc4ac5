/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which backend a socket gets, and which frontend it believes to talk to. */
#pragma once

#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include "lib/endpoint.h"

enum balance {
	BALANCE_PASS, /* not ours: leave the destination alone */
	BALANCE_TRANSLATE,
	BALANCE_REFUSE, /* a service that has no backend */
};

/* A list can be replaced at most this often while one program runs before it gives up and refuses. */
#define LIST_READS 4

static __always_inline void count(enum socket_lb_event event)
{
	__u64 *counter = bpf_map_lookup_elem(&socket_lb_events, &event);

	if (counter)
		*counter += 1;
}

static __always_inline bool is_member(__u64 list, const struct endpoint *backend)
{
	struct member_key key = {
		.list = list,
		.backend = *backend,
	};

	return bpf_map_lookup_elem(&members, &key) != NULL;
}

static __always_inline bool draw(const struct endpoint *frontend, const struct service *service, struct endpoint *backend)
{
	struct slot_key key = {
		.list = service->list,
		.slot = ((__u64)bpf_get_prandom_u32() * service->slots) >> 32,
		.frontend = *frontend,
	};
	const struct slot *slot = bpf_map_lookup_elem(&slots, &key);

	if (!slot)
		return false;
	*backend = bpf_get_prandom_u32() <= slot->threshold ? slot->backend : slot->alias;
	return true;
}

/* One weighted random backend of the frontend. False: it has none (any more). */
static __always_inline bool choose(const struct endpoint *frontend, const struct service *service, struct endpoint *backend)
{
	for (int reads = 0; reads < LIST_READS; reads++) {
		if (!service->slots)
			return false;
		if (draw(frontend, service, backend))
			return true;
		count(SOCKET_LB_READ_AGAIN);
		service = bpf_map_lookup_elem(&frontends, frontend);
		if (!service)
			return false;
	}
	return false;
}

/* The backend this client had, if its time has not run out and the service still has it; else a new choice. */
static __always_inline bool choose_sticky(const struct endpoint *frontend, const struct service *service, __u64 netns_cookie,
					  struct endpoint *backend)
{
	struct affinity_key key = {
		.netns_cookie = netns_cookie,
		.frontend = *frontend,
	};
	struct affinity *kept = bpf_map_lookup_elem(&affinities, &key);
	struct affinity made = {};
	__u64 now = bpf_ktime_get_ns();

	if (kept && now - kept->last_used_ns < service->affinity_timeout_s * 1000000000ULL &&
	    is_member(service->list, &kept->backend)) {
		*backend = kept->backend;
		kept->last_used_ns = now;
		count(SOCKET_LB_AFFINITY_KEPT);
		return true;
	}
	if (!choose(frontend, service, backend))
		return false;
	made.last_used_ns = now;
	made.backend = *backend;
	bpf_map_update_elem(&affinities, &key, &made, BPF_ANY);
	return true;
}

static __always_inline bool is_left_out(__u64 netns_cookie)
{
	const struct workload *workload = bpf_map_lookup_elem(&workloads, &netns_cookie);

	return workload && workload->flags & WORKLOAD_LEFT_OUT;
}

static __always_inline enum balance pick(const struct endpoint *frontend, const struct service *service, __u64 netns_cookie,
					 struct endpoint *backend)
{
	bool found;

	if (is_left_out(netns_cookie)) {
		count(SOCKET_LB_LEFT_OUT);
		return BALANCE_PASS;
	}
	if (service->affinity_timeout_s)
		found = choose_sticky(frontend, service, netns_cookie, backend);
	else
		found = choose(frontend, service, backend);
	if (found)
		return BALANCE_TRANSLATE;
	count(SOCKET_LB_NO_BACKEND);
	return BALANCE_REFUSE;
}

/* connect(), TCP and UDP. */
static __always_inline enum balance balance_connect(struct bpf_sock_addr *ctx, const struct endpoint *destination,
						    struct endpoint *backend)
{
	const struct service *service = bpf_map_lookup_elem(&frontends, destination);
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct connection record = {};
	enum balance verdict;

	if (!service) {
		/* A UDP socket may connect again: what it was before must not be taken for what it is now. */
		if (destination->protocol == IPPROTO_UDP)
			bpf_map_delete_elem(&connections, &cookie);
		return BALANCE_PASS;
	}
	record.netns_cookie = bpf_get_netns_cookie(ctx);
	verdict = pick(destination, service, record.netns_cookie, backend);
	if (verdict != BALANCE_TRANSLATE)
		return verdict;
	record.frontend = *destination;
	record.backend = *backend;
	if (bpf_map_update_elem(&connections, &cookie, &record, BPF_ANY))
		/* The connection works; getpeername() will name the backend, and nobody closes it when the backend goes. */
		count(SOCKET_LB_NOT_RECORDED);
	count(SOCKET_LB_TRANSLATED);
	return BALANCE_TRANSLATE;
}

/* sendmsg() with an address on a UDP socket: its datagrams to one frontend stay with one backend while that serves. */
static __always_inline enum balance balance_datagram(struct bpf_sock_addr *ctx, const struct endpoint *destination,
						     struct endpoint *backend)
{
	const struct service *service = bpf_map_lookup_elem(&frontends, destination);
	struct socket_peer key = {};
	const struct endpoint *kept;
	enum balance verdict;

	if (!service)
		return BALANCE_PASS;
	key.socket_cookie = bpf_get_socket_cookie(ctx);
	key.peer = *destination;
	kept = bpf_map_lookup_elem(&datagram_backends, &key);
	if (kept && is_member(service->list, kept)) {
		*backend = *kept;
		return BALANCE_TRANSLATE;
	}
	verdict = pick(destination, service, bpf_get_netns_cookie(ctx), backend);
	if (verdict != BALANCE_TRANSLATE)
		return verdict;
	bpf_map_update_elem(&datagram_backends, &key, backend, BPF_ANY);
	key.peer = *backend;
	bpf_map_update_elem(&datagram_frontends, &key, destination, BPF_ANY);
	count(SOCKET_LB_TRANSLATED);
	return BALANCE_TRANSLATE;
}

/* Whether `peer` is a backend that this socket knows as a frontend. */
static __always_inline bool balance_reverse(struct bpf_sock_addr *ctx, const struct endpoint *peer,
					    struct endpoint *frontend)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	const struct connection *record = bpf_map_lookup_elem(&connections, &cookie);
	const struct endpoint *known;
	struct socket_peer key = {};

	if (record && endpoint_equal(&record->backend, peer)) {
		*frontend = record->frontend;
		return true;
	}
	if (peer->protocol != IPPROTO_UDP)
		return false;
	key.socket_cookie = cookie;
	key.peer = *peer;
	known = bpf_map_lookup_elem(&datagram_frontends, &key);
	if (!known)
		return false;
	*frontend = *known;
	return true;
}
