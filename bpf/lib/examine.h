/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connections are admitted to the short circuit when they are in use, by their packets: then both sockets are what they will
 * be. Linux does not pass O_NONBLOCK from a listener to what it accepts, so nothing earlier tells how a socket is read.
 */
#pragma once

#include "lib/kernel_socket.h"
#include "lib/short_circuit.h"

/* For how long a workload is only looked at before the first of its connections is admitted. */
const volatile __u64 short_circuit_watch_ns = 5000000000;

static __always_inline void fill_lookup(struct bpf_sock_tuple *lookup, const struct tuple *tuple)
{
	if (address_is_v4(&tuple->source)) {
		lookup->ipv4.saddr = address_to_v4(&tuple->source);
		lookup->ipv4.daddr = address_to_v4(&tuple->destination);
		lookup->ipv4.sport = tuple->source_port;
		lookup->ipv4.dport = tuple->destination_port;
	} else {
		__builtin_memcpy(lookup->ipv6.saddr, &tuple->source, sizeof(lookup->ipv6.saddr));
		__builtin_memcpy(lookup->ipv6.daddr, &tuple->destination, sizeof(lookup->ipv6.daddr));
		lookup->ipv6.sport = tuple->source_port;
		lookup->ipv6.dport = tuple->destination_port;
	}
}

/* The socket that receives packets with these ends, in the namespace of their destination. To be released. */
static __always_inline struct bpf_sock *receiver(struct __sk_buff *skb, const struct tuple *tuple, __s32 netns_id)
{
	struct bpf_sock_tuple lookup = {};
	__u32 size = address_is_v4(&tuple->source) ? sizeof(lookup.ipv4) : sizeof(lookup.ipv6);
	__u64 netns = netns_id < 0 ? BPF_F_CURRENT_NETNS : (__u64)netns_id;

	fill_lookup(&lookup, tuple);
	return bpf_sk_lookup_tcp(skb, &lookup, size, netns, 0);
}

static __always_inline struct short_circuit_key socket_key(const struct tuple *tuple, __u64 netns_cookie)
{
	struct short_circuit_key made = {
		.local = tuple->source,
		.remote = tuple->destination,
		.local_port = tuple->source_port,
		.remote_port = tuple->destination_port,
		.netns_cookie = netns_cookie,
	};

	return made;
}

/* Whether a socket can be admitted, and if not, what is counted. */
static __always_inline bool is_admissible(const struct bpf_sock *sock, enum short_circuit_event *event)
{
	if (!sock || sock->state != BPF_TCP_ESTABLISHED) {
		*event = SHORT_CIRCUIT_EVENT_NO_SOCKET;
		return false;
	}
	switch (socket_mode(kernel_sock(sock))) {
	case SOCKET_NONBLOCKING:
		return true;
	case SOCKET_BLOCKING:
		*event = SHORT_CIRCUIT_EVENT_BLOCKING;
		return false;
	default:
		*event = SHORT_CIRCUIT_EVENT_UNACCEPTED;
		return false;
	}
}

/* The workload's watch begins with its first connection. */
static __always_inline bool is_watched(__u64 netns_cookie)
{
	struct short_circuit_watch begun = { .watched_since_ns = bpf_ktime_get_coarse_ns() };
	const struct short_circuit_watch *watch = bpf_map_lookup_elem(&short_circuit_watches, &netns_cookie);

	if (watch)
		return begun.watched_since_ns - watch->watched_since_ns < short_circuit_watch_ns;
	bpf_map_update_elem(&short_circuit_watches, &netns_cookie, &begun, BPF_NOEXIST);
	return short_circuit_watch_ns;
}

/* Makes the row under which messages are decided about; false: there is one, or no room. */
static __noinline bool begin_connection(const struct tuple *tuple, struct tuple *key, __u64 source_cookie,
					__u64 destination_cookie, __u32 epoch)
{
	struct short_circuit_connection *draft;
	bool reversed = flow_key(tuple, key);
	__u32 only = 0;

	draft = bpf_map_lookup_elem(&short_circuit_draft, &only);
	if (!draft)
		return false;
	/* All else is zero: nobody writes there. */
	draft->flags = SHORT_CIRCUIT_IS_JOINING;
	draft->ends[0].epoch = draft->ends[1].epoch = epoch;
	draft->since_ns = bpf_ktime_get_coarse_ns();
	draft->ends[0].netns_cookie = reversed ? destination_cookie : source_cookie;
	draft->ends[1].netns_cookie = reversed ? source_cookie : destination_cookie;
	return !bpf_map_update_elem(&short_circuit_connections, key, draft, BPF_NOEXIST);
}

static __always_inline void settle_connection(const struct tuple *key, bool reversed, __u64 source, __u64 destination)
{
	struct short_circuit_connection *made = bpf_map_lookup_elem(&short_circuit_connections, key);

	if (!made)
		return;
	made->ends[0].socket = reversed ? destination : source;
	made->ends[1].socket = reversed ? source : destination;
	__sync_fetch_and_and((__u32 *)&made->flags, ~(__u32)SHORT_CIRCUIT_IS_JOINING);
}

/* Puts both sockets in, or none. */
static __always_inline bool join(struct bpf_sock *source_sock, struct bpf_sock *destination_sock, const struct tuple *tuple,
				 __u64 source_cookie, __u64 destination_cookie)
{
	struct short_circuit_key key = socket_key(tuple, source_cookie);
	struct tuple answer;

	if (bpf_map_update_elem(&short_circuit_sockets, &key, source_sock, BPF_NOEXIST))
		return false;
	answer = tuple_reverse(tuple);
	key = socket_key(&answer, destination_cookie);
	if (!bpf_map_update_elem(&short_circuit_sockets, &key, destination_sock, BPF_NOEXIST))
		return true;
	/* Nothing was handed to it, since the row says that the connection is only joining. */
	key = socket_key(tuple, source_cookie);
	bpf_map_delete_elem(&short_circuit_sockets, &key);
	return false;
}

static __noinline enum short_circuit_event admit_sockets(struct __sk_buff *skb, const struct tuple *tuple, __u32 epoch)
{
	const struct short_circuit_workload *source = bpf_map_lookup_elem(&short_circuit_workloads, &tuple->source);
	const struct short_circuit_workload *destination =
		bpf_map_lookup_elem(&short_circuit_workloads, &tuple->destination);
	enum short_circuit_event event = SHORT_CIRCUIT_EVENT_FULL;
	struct bpf_sock *source_sock, *destination_sock;
	struct tuple answer = tuple_reverse(tuple), key;
	bool joined;

	if (!source || !destination)
		return SHORT_CIRCUIT_EVENT_INELIGIBLE;
	destination_sock = receiver(skb, tuple, destination->netns_id);
	if (!destination_sock)
		return SHORT_CIRCUIT_EVENT_NO_SOCKET;
	source_sock = receiver(skb, &answer, source->netns_id);
	if (!source_sock) {
		bpf_sk_release(destination_sock);
		return SHORT_CIRCUIT_EVENT_NO_SOCKET;
	}
	if (is_admissible(source_sock, &event) && is_admissible(destination_sock, &event) &&
	    begin_connection(tuple, &key, source->netns_cookie, destination->netns_cookie, epoch)) {
		joined = join(source_sock, destination_sock, tuple, source->netns_cookie, destination->netns_cookie);
		if (joined)
			settle_connection(&key, !tuple_equal(&key, tuple), (__u64)source_sock, (__u64)destination_sock);
		else
			bpf_map_delete_elem(&short_circuit_connections, &key);
		event = joined ? SHORT_CIRCUIT_EVENT_ADMITTED : SHORT_CIRCUIT_EVENT_FULL;
	}
	bpf_sk_release(source_sock);
	bpf_sk_release(destination_sock);
	return event;
}

/* Whether the connection is admitted already, or about to leave; ADMISSION_LATER: neither. Its key is on a stack of its own. */
static __noinline enum admission admission_so_far(const struct tuple *tuple)
{
	const struct short_circuit_connection *connection;
	struct tuple key;

	flow_key(tuple, &key);
	connection = bpf_map_lookup_elem(&short_circuit_connections, &key);
	if (!connection)
		return ADMISSION_LATER;
	return connection->flags & SHORT_CIRCUIT_IS_LEAVING ? ADMISSION_REFUSED : ADMISSION_SETTLED;
}

static __always_inline enum admission admission_after(enum short_circuit_event event)
{
	switch (event) {
	case SHORT_CIRCUIT_EVENT_WATCHED:
	case SHORT_CIRCUIT_EVENT_UNACCEPTED:
		return ADMISSION_LATER;
	case SHORT_CIRCUIT_EVENT_BLOCKING:
	case SHORT_CIRCUIT_EVENT_FULL:
		return ADMISSION_REFUSED;
	default:
		return ADMISSION_SETTLED;
	}
}

/* A packet of a connection: see lib/admit.h. */
__noinline int examine(struct __sk_buff *skb, const struct tuple *tuple, __u32 epoch)
{
	const struct short_circuit_workload *source, *destination;
	enum short_circuit_event event;
	enum admission found;
	bool watched;

	if (!tuple || !short_circuit)
		return ADMISSION_SETTLED;
	source = bpf_map_lookup_elem(&short_circuit_workloads, &tuple->source);
	destination = bpf_map_lookup_elem(&short_circuit_workloads, &tuple->destination);
	if (!source || !destination)
		return ADMISSION_SETTLED;
	found = admission_so_far(tuple);
	if (found != ADMISSION_LATER)
		return found;
	watched = is_watched(source->netns_cookie);
	watched |= is_watched(destination->netns_cookie);
	if (watched)
		event = SHORT_CIRCUIT_EVENT_WATCHED;
	else if (short_circuit_verdict(tuple, source->netns_cookie, destination->netns_cookie) != SHORT_CIRCUIT_ELIGIBLE)
		event = SHORT_CIRCUIT_EVENT_INELIGIBLE;
	else
		event = admit_sockets(skb, tuple, epoch);
	count_short_circuit(event);
	return admission_after(event);
}
