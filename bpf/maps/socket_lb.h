/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Service addresses answered at the socket: the maps between the agent and the hooks in socket_lb.bpf.c.
 *
 * A frontend names an immutable list of slots; a change is a new list, one update of the frontend, and the removal of the
 * old list after every program that may have seen it has ended.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/* An address and port. IPv4 is ::ffff:a.b.c.d, so that v4, v6 and v4-mapped sockets share every lookup. */
struct endpoint {
	__u8 address[16];
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 pad;
};

enum service_flag {
	SERVICE_EXTERNAL = 1, /* an address of nodes or of the world: who asks from there is not ours to serve */
	SERVICE_NOTED = 2,    /* `attempts` knows of its connections, whether an agent is there or not */
};

/* A drill's list stands in for the normal one until its time is over, whoever is there then to take it back. */
struct service {
	__u64 list;
	__u64 drill_list;
	__u64 drill_until_ns; /* CLOCK_MONOTONIC; 0: no drill */
	__u32 slots;	      /* 0: no backend, refuse at once */
	__u32 drill_slots;
	__u32 affinity_timeout_s;
	__u32 source;
	enum service_flag flags;
	__u32 pad;
};

/* The frontend is part of the key: a value of `frontends` that was recycled for another frontend while a program
 * still read it can miss here, but never hit a slot of the other one.
 */
struct slot_key {
	__u64 list;
	__u32 slot;
	struct endpoint frontend;
};

/* Walker's alias method: the slot is drawn evenly, then `backend` with probability (threshold + 1) / 2^32, else `alias`.
 * Every backend of a list is `backend` of exactly one slot. `weight` and `source` are for the agent's next start.
 */
struct slot {
	__u32 threshold;
	__u32 weight;
	__u32 source;
	struct endpoint backend;
	struct endpoint alias;
};

struct member_key {
	__u64 list;
	struct endpoint backend;
	__u32 pad;
};

struct member {
	__u32 weight;
};

struct affinity_key {
	__u64 netns_cookie;
	struct endpoint frontend;
	__u32 pad;
};

struct affinity {
	__u64 last_used_ns; /* CLOCK_MONOTONIC */
	struct endpoint backend;
	__u32 pad;
};

struct connection {
	__u64 netns_cookie;
	struct endpoint frontend;
	struct endpoint backend;
};

struct socket_peer {
	__u64 socket_cookie;
	struct endpoint peer;
	__u32 pad;
};

/* What became of connections to a backend. CLOCK_MONOTONIC; counters wrap. */
struct attempts {
	__u64 last_ns;	   /* when the last one began */
	__u64 answered_ns; /* when the last one was there; 0: none was yet */
	__u64 third_ns;	   /* when the third in a row began that nobody answered; 0: there were not so many */
	__u64 avoided_until_ns;
	__u32 unanswered; /* in a row */
	__u32 begun;
	__u32 answered;
	__u32 pad;
};

enum workload_flag {
	WORKLOAD_LEFT_OUT = 1, /* sees service addresses as they are: not translated at its sockets */
};

struct workload {
	enum workload_flag flags;
};

struct source_name {
	char name[64];
};

enum socket_lb_event {
	SOCKET_LB_TRANSLATED,
	SOCKET_LB_AFFINITY_KEPT,
	SOCKET_LB_NO_BACKEND,
	SOCKET_LB_LEFT_OUT,
	SOCKET_LB_READ_AGAIN,
	SOCKET_LB_NOT_RECORDED,
	SOCKET_LB_AVOIDED,
	SOCKET_LB_EVENTS,
};

/* Written by the agent, read by the forward hooks. Missing: not a service address, or a port the service does not have:
 * left to the network.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct endpoint);
	__type(value, struct service);
} frontends SEC(".maps") __weak;

/* Written by the agent, read by the forward hooks. Missing: the list was replaced; read the frontend again. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct slot_key);
	__type(value, struct slot);
} slots SEC(".maps") __weak;

/* Written by the agent for frontends with affinity and for UDP. Missing: that backend is not (any more) in the list. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct member_key);
	__type(value, struct member);
} members SEC(".maps") __weak;

/* Written by the agent, read by nobody in the kernel: what the `source` numbers of rows mean, for the agent's next start. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct source_name);
} sources SEC(".maps") __weak;

/* Written by the agent; by network namespace cookie. Missing: nothing special about this workload. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct workload);
} workloads SEC(".maps") __weak;

/* Written and read by the forward hooks: which backend a client (network namespace) had. Missing: choose. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinities SEC(".maps") __weak;

/* By socket cookie: what connect() translated. Written by the connect hooks, removed by sock_release, read by getpeername,
 * recvmsg and by the agent, which closes sockets whose backend went. Not LRU: a live socket is never pushed out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct connection);
} connections SEC(".maps") __weak;

/* Unconnected UDP. From the frontend (peer) to the backend that this socket's datagrams go to ... */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct socket_peer);
	__type(value, struct endpoint);
} datagram_backends SEC(".maps") __weak;

/* ... and from that backend (peer) back to the frontend, for recvmsg. Missing: the datagram is from somebody else. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct socket_peer);
	__type(value, struct endpoint);
} datagram_frontends SEC(".maps") __weak;

/* Written by the agent several times a second: when (CLOCK_MONOTONIC). 0: there was none yet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} beat SEC(".maps") __weak;

/* By backend. Written by the hooks: of frontends that are SERVICE_NOTED, and of all others while no agent is there; then they
 * also go by it. Read by the agent of nodes that do not answer. Missing: nobody connected, and nothing is held against it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct endpoint);
	__type(value, struct attempts);
} attempts SEC(".maps") __weak;

/* Counted by programs, read by the agent: how often a drill's list gave this backend. Missing: never. LRU: what a drill
 * counted nobody takes away.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct member_key);
	__type(value, __u64);
} drill_choices SEC(".maps") __weak;

/* Counted by the hooks, summed by the agent; index: enum socket_lb_event. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SOCKET_LB_EVENTS);
	__type(key, enum socket_lb_event);
	__type(value, __u64);
} socket_lb_events SEC(".maps") __weak;
