/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which backend a socket gets, and which frontend it believes to talk to. */
#pragma once

#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include "lib/absence.h"

enum balance {
	BALANCE_PASS, /* not ours: leave the destination alone */
	BALANCE_TRANSLATE,
	BALANCE_REFUSE, /* a service that has no backend */
};

/* A list can be replaced at most this often while one program runs before it gives up and refuses. */
#define LIST_READS 4

/* Slots that are looked at for a backend that answers. */
#define MOST_LOOKED_AT 64

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

/* The list that is in force. */
struct list {
	__u64 number;
	__u32 slots;
	bool drilled;
};

static __always_inline struct list list_of(const struct service *service)
{
	struct list list = {
		.number = service->list,
		.slots = service->slots,
	};

	if (service->drill_until_ns && bpf_ktime_get_ns() < service->drill_until_ns) {
		list.number = service->drill_list;
		list.slots = service->drill_slots;
		list.drilled = true;
	}
	return list;
}

static __always_inline void count_drilled(__u64 list, const struct endpoint *backend)
{
	struct member_key key = {
		.list = list,
		.backend = *backend,
	};
	__u64 *known = bpf_map_lookup_elem(&drill_choices, &key), none = 0;

	if (!known) {
		bpf_map_update_elem(&drill_choices, &key, &none, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&drill_choices, &key);
	}
	if (known)
		__sync_fetch_and_add(known, 1);
}

static __always_inline bool draw(const struct endpoint *frontend, const struct list *list, struct endpoint *backend)
{
	struct slot_key key = {
		.list = list->number,
		.slot = ((__u64)bpf_get_prandom_u32() * list->slots) >> 32,
		.frontend = *frontend,
	};
	const struct slot *slot = bpf_map_lookup_elem(&slots, &key);

	if (!slot)
		return false;
	*backend = bpf_get_prandom_u32() <= slot->threshold ? slot->backend : slot->alias;
	return true;
}

/* A lookup can miss a key that is being replaced: the new element goes to the head of a bucket that the walk has left behind
 * (kernel/bpf/hashtab.c). What is missing twice is not there.
 */
static __always_inline const struct service *find_service(const struct endpoint *frontend)
{
	const struct service *service = bpf_map_lookup_elem(&frontends, frontend);

	return service ? service : bpf_map_lookup_elem(&frontends, frontend);
}

/* One weighted random backend of the frontend. False: it has none (any more). A replaced element is used again for another
 * frontend at once, so neither a missing slot nor an empty list is believed before it was read anew.
 */
static __always_inline bool choose(const struct endpoint *frontend, const struct service *service, struct endpoint *backend)
{
	for (int reads = 0; reads < LIST_READS; reads++) {
		struct list list = list_of(service);

		if (list.slots && draw(frontend, &list, backend)) {
			if (list.drilled)
				count_drilled(list.number, backend);
			return true;
		}
		if (!list.slots && reads)
			return false;
		if (list.slots)
			count(SOCKET_LB_READ_AGAIN);
		service = find_service(frontend);
		if (!service)
			return false;
	}
	return false;
}

/* The client comes back to this backend from now on. */
static __always_inline void keep_to(const struct endpoint *frontend, __u64 netns_cookie, const struct endpoint *backend,
				    __u64 now)
{
	struct affinity_key key = {
		.netns_cookie = netns_cookie,
		.frontend = *frontend,
	};
	struct affinity made = {
		.last_used_ns = now,
		.backend = *backend,
	};

	bpf_map_update_elem(&affinities, &key, &made, BPF_ANY);
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
	__u64 now = bpf_ktime_get_ns();

	if (kept) {
		/* Another CPU may have used it after our `now`, and the element may become another client's: decide by a copy. */
		__s64 unused_ns = now - kept->last_used_ns;

		*backend = kept->backend;
		if (unused_ns < (__s64)(service->affinity_timeout_s * 1000000000ULL) &&
		    is_member(list_of(service).number, backend)) {
			kept->last_used_ns = now;
			count(SOCKET_LB_AFFINITY_KEPT);
			return true;
		}
	}
	if (!choose(frontend, service, backend))
		return false;
	keep_to(frontend, netns_cookie, backend, now);
	return true;
}

struct search {
	struct slot_key key;
	__u32 slots;
	__u64 now;
	struct endpoint *backend;
};

/* Ends the search with 1: at this slot, or because the list was replaced. */
static long look_at_slot(__u32 _, struct search *search)
{
	const struct slot *slot = bpf_map_lookup_elem(&slots, &search->key);

	if (!slot)
		return 1;
	if (!is_avoided(&slot->backend, search->now)) {
		*search->backend = slot->backend;
		return 1;
	}
	search->key.slot = search->key.slot + 1 < search->slots ? search->key.slot + 1 : 0;
	return 0;
}

/* The first backend from a random slot on that is not avoided; as it was where there is none within MOST_LOOKED_AT slots.
 * A call of the kernel's and no loop of ours, which would be verified once for every way through it.
 */
static __always_inline void choose_answering(const struct endpoint *frontend, const struct service *service, __u64 now,
					     struct endpoint *backend)
{
	struct list list = list_of(service);
	struct search search = {
		.key = {
			.list = list.number,
			.slot = ((__u64)bpf_get_prandom_u32() * list.slots) >> 32,
			.frontend = *frontend,
		},
		.slots = list.slots,
		.now = now,
		.backend = backend,
	};

	bpf_loop(MOST_LOOKED_AT, look_at_slot, &search, 0);
}

/* While no agent says who is there, who does not answer is left alone for a while, if somebody else does. A client that is kept
 * at its backend is kept at the other from then on.
 */
static __always_inline void leave_the_silent_alone(const struct endpoint *frontend, const struct service *service,
						   __u64 netns_cookie, __u64 now, struct endpoint *backend)
{
	struct endpoint other = *backend;

	if (!is_avoided(backend, now))
		return;
	choose_answering(frontend, service, now, &other);
	if (endpoint_equal(backend, &other))
		return;
	count(SOCKET_LB_AVOIDED);
	*backend = other;
	if (service->affinity_timeout_s)
		keep_to(frontend, netns_cookie, backend, now);
}

/* Of TCP alone it can be seen whether it was answered. */
static __always_inline void attempt(const struct endpoint *frontend, const struct service *service, __u64 netns_cookie,
				    struct endpoint *backend)
{
	__u64 now = bpf_ktime_get_ns();

	if (is_agent_absent(now))
		leave_the_silent_alone(frontend, service, netns_cookie, now, backend);
	else if (!(service->flags & SERVICE_NOTED))
		return;
	note_attempt(backend, now);
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

/* Whether the socket has a peer: for UDP, whether connect() gave it one and nothing took it back. */
static __always_inline bool is_connected(const struct bpf_sock_addr *ctx)
{
	const struct bpf_sock *sk = ctx->sk;

	return sk && sk->state == BPF_TCP_ESTABLISHED;
}

/* A socket may connect again, and elsewhere: what it was before must not be taken for what it is now. */
static __always_inline void forget_connection(__u64 cookie)
{
	if (bpf_map_lookup_elem(&connections, &cookie))
		bpf_map_delete_elem(&connections, &cookie);
}

/* connect(), TCP and UDP. */
static __always_inline enum balance balance_connect(struct bpf_sock_addr *ctx, const struct endpoint *destination,
						    struct endpoint *backend)
{
	const struct service *service = find_service(destination);
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct connection record = {};
	enum balance verdict;

	if (!service) {
		forget_connection(cookie);
		return BALANCE_PASS;
	}
	record.netns_cookie = bpf_get_netns_cookie(ctx);
	verdict = pick(destination, service, record.netns_cookie, backend);
	if (verdict != BALANCE_TRANSLATE)
		return verdict;
	if (destination->protocol == IPPROTO_TCP)
		attempt(destination, service, record.netns_cookie, backend);
	record.frontend = *destination;
	record.backend = *backend;
	if (bpf_map_update_elem(&connections, &cookie, &record, BPF_ANY))
		/* The connection works; getpeername() will name the backend, and nobody closes it when the backend goes. */
		count(SOCKET_LB_NOT_RECORDED);
	count(SOCKET_LB_TRANSLATED);
	return BALANCE_TRANSLATE;
}

/* The backend that a connected socket has for this frontend: it would not hear from another. */
static __always_inline bool connected_backend(const struct bpf_sock_addr *ctx, __u64 cookie, const struct endpoint *frontend,
					      struct endpoint *backend)
{
	const struct connection *record;

	if (!is_connected(ctx))
		return false;
	record = bpf_map_lookup_elem(&connections, &cookie);
	if (!record || !endpoint_equal(&record->frontend, frontend))
		return false;
	*backend = record->backend;
	return true;
}

/* The backend that this socket's datagrams to the frontend went to. */
static __always_inline bool datagram_backend(const struct socket_peer *to, struct endpoint *backend)
{
	const struct endpoint *kept = bpf_map_lookup_elem(&datagram_backends, to);

	if (kept)
		*backend = *kept;
	return kept;
}

/* What comes from the backend is from the frontend that was asked last, also where the record of it was pushed out. */
static __always_inline void remember_frontend(__u64 cookie, const struct endpoint *backend, const struct endpoint *frontend)
{
	struct socket_peer from = {
		.socket_cookie = cookie,
		.peer = *backend,
	};
	const struct endpoint *known = bpf_map_lookup_elem(&datagram_frontends, &from);

	if (!known || !endpoint_equal(known, frontend))
		bpf_map_update_elem(&datagram_frontends, &from, frontend, BPF_ANY);
}

/* sendmsg() with an address on a UDP socket: its datagrams to one frontend stay with one backend while that serves. */
static __always_inline enum balance balance_datagram(struct bpf_sock_addr *ctx, const struct endpoint *destination,
						     struct endpoint *backend)
{
	const struct service *service = bpf_map_lookup_elem(&frontends, destination);
	struct socket_peer to = {};
	enum balance verdict;
	__u64 cookie, list;

	if (!service)
		return BALANCE_PASS;
	list = list_of(service).number;
	cookie = bpf_get_socket_cookie(ctx);
	to.socket_cookie = cookie;
	to.peer = *destination;
	if (connected_backend(ctx, cookie, destination, backend) && is_member(list, backend))
		return BALANCE_TRANSLATE;
	if (datagram_backend(&to, backend) && is_member(list, backend)) {
		remember_frontend(cookie, backend, destination);
		return BALANCE_TRANSLATE;
	}
	verdict = pick(destination, service, bpf_get_netns_cookie(ctx), backend);
	if (verdict != BALANCE_TRANSLATE)
		return verdict;
	bpf_map_update_elem(&datagram_backends, &to, backend, BPF_ANY);
	remember_frontend(cookie, backend, destination);
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
	struct socket_peer from = {};
	bool udp = peer->protocol == IPPROTO_UDP;

	if (record && endpoint_equal(&record->backend, peer) && (!udp || is_connected(ctx))) {
		*frontend = record->frontend;
		return true;
	}
	if (!udp)
		return false;
	from.socket_cookie = cookie;
	from.peer = *peer;
	known = bpf_map_lookup_elem(&datagram_frontends, &from);
	if (!known)
		return false;
	*frontend = *known;
	return true;
}
