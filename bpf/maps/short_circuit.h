/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Bytes of same-node connections handed from socket to socket: the maps between the agent and the programs that admit
 * connections (TC), decide about each message (sk_msg) and watch what workloads do with sockets (tracepoints).
 *
 * The layout of the first four is frozen: sockets that are in `short_circuit_sockets` outlive every build, and the program that
 * is attached to it decides nothing but calls what is in `short_circuit_programs` and uses the others.
 */
#pragma once

#include "maps/pod_network.h"

/* One end of a connection as its socket sees it: ports in network order. */
struct short_circuit_key {
	struct address local;
	struct address remote;
	__be16 local_port;
	__be16 remote_port;
	__u32 pad;
	__u64 netns_cookie;
};

/* Frozen. The sockets that are admitted; who is not in here is not touched at all. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 32768);
	__type(key, struct short_circuit_key);
	__type(value, __u64);
} short_circuit_sockets SEC(".maps") __weak;

/* Frozen. The program that decides, of the build that runs now. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} short_circuit_programs SEC(".maps") __weak;

/* Frozen. Written by the agent. 0: every message of every connection goes on TCP. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} short_circuit_switch SEC(".maps") __weak;

/* Frozen. Which decisions hold: those that were taken under this number. Never 0 once the agent has begun. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} short_circuit_epoch SEC(".maps") __weak;

/* A workload that was selected, or this node; by address. `netns_id`: what the node's namespace calls the workload's, negative:
 * the node's own. Written by the agent. Missing: not selected, or of another node.
 */
struct short_circuit_workload {
	__u64 netns_cookie;
	__s32 netns_id;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, struct short_circuit_workload);
} short_circuit_workloads SEC(".maps") __weak;

enum short_circuit_exclusion {
	SHORT_CIRCUIT_WATCHED,	/* not excluded */
	SHORT_CIRCUIT_SPLICES,	/* it called splice() on a socket */
	SHORT_CIRCUIT_TEES,	/* or tee() */
	SHORT_CIRCUIT_SENDS_ZC, /* or sent by io_uring without a copy */
};

/* What was seen of a workload, by the cookie of its namespace. Written by the programs; the agent removes it with the workload.
 * `watched_since_ns`: when its first connection was looked at.
 */
struct short_circuit_watch {
	__u64 watched_since_ns; /* CLOCK_MONOTONIC, coarse */
	enum short_circuit_exclusion exclusion;
	__u32 process; /* whose call it was */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct short_circuit_watch);
} short_circuit_watches SEC(".maps") __weak;

/* Why a message went on TCP. The connection may come back from the first ones; it leaves for the others. */
enum short_circuit_cause {
	SHORT_CIRCUIT_TAKEN, /* it did not */
	SHORT_CIRCUIT_SWITCHED_OFF,
	SHORT_CIRCUIT_JOINING,	      /* one of both sockets is in the map */
	SHORT_CIRCUIT_UNACKNOWLEDGED, /* bytes before it are under way on TCP */
	SHORT_CIRCUIT_UNREAD,	      /* bytes before it came on TCP and were not read */
	SHORT_CIRCUIT_QUEUE_BYTES,    /* the reader is behind */
	SHORT_CIRCUIT_QUEUE_MESSAGES,
	SHORT_CIRCUIT_LOW_WATER,     /* the reader waits for more than one byte (SO_RCVLOWAT) */
	SHORT_CIRCUIT_ZEROCOPY,	     /* the sender waits to be told that its pages are free (SO_ZEROCOPY) */
	SHORT_CIRCUIT_NO_PEER,	     /* the other socket is closed, or in no map any more */
	SHORT_CIRCUIT_BLOCKING,	     /* one of both sockets is blocking */
	SHORT_CIRCUIT_LAYER,	     /* the kernel does something to the bytes of one of both sockets (TLS) */
	SHORT_CIRCUIT_INELIGIBLE,    /* a workload is not selected any more, excluded, or gone */
	SHORT_CIRCUIT_STAYS_ON_TCP,  /* more than half of the messages of a while did */
	SHORT_CIRCUIT_SMALL_ONE_WAY, /* a stream of messages that TCP would put together */
	SHORT_CIRCUIT_ASKED,	     /* the agent sends it back */
	SHORT_CIRCUIT_REFUSED,	     /* TC would drop it: the send fails */
	SHORT_CIRCUIT_CAUSES,
};

#define SHORT_CIRCUIT_MARKS 64

/* What one end sent. Written by its own messages only, which take turns. The queue: so many messages were handed over, and of
 * every sixteenth it is known up to which byte they were, so that what was read by now says how many still wait.
 */
struct short_circuit_end {
	__u64 socket; /* struct sock, as a number; 0: not known yet */
	__u64 netns_cookie;
	__u32 epoch; /* of the decision that let it send last */
	__u32 pad;
	__u64 bytes; /* handed over, */
	__u64 messages;
	__u64 passed_bytes; /* and sent on TCP since the admission */
	__u64 passed_messages;
	__u64 period_ns;       /* of the look at whether it profits: begin, */
	__u64 period_messages; /* and what the counts were then */
	__u64 period_bytes;
	__u64 period_passed;
	__u64 period_answers;
	__u64 period_full;
	__u64 marks[SHORT_CIRCUIT_MARKS];
	__u64 read_marks;
	__u32 causes[SHORT_CIRCUIT_CAUSES];
	__u32 pad_of_causes;
};

enum short_circuit_flag {
	SHORT_CIRCUIT_IS_JOINING = 1,
	SHORT_CIRCUIT_IS_LEAVING = 2,
	SHORT_CIRCUIT_IS_TEST = 4, /* of the agent's own: the switch is on for it, and it is eligible */
};

/* Both ends of a connection, the first is the source of the canonical key. `leaves`: why, once it does. */
struct short_circuit_connection {
	enum short_circuit_flag flags;
	enum short_circuit_cause leaves;
	__u64 since_ns; /* CLOCK_MONOTONIC, coarse */
	struct short_circuit_end ends[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple);
	__type(value, struct short_circuit_connection);
} short_circuit_connections SEC(".maps") __weak;

/* Written and read within one run of a program: too large for its stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct short_circuit_connection);
} short_circuit_draft SEC(".maps") __weak;

/* Connections that are to leave, for the agent: keys of `short_circuit_connections`. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} short_circuit_leaving SEC(".maps") __weak;

/* Two workloads, the smaller address first. */
struct short_circuit_pair {
	struct address first;
	struct address second;
};

struct short_circuit_sent {
	__u64 bytes;
	__u64 messages;
	__u64 passed_bytes;
	__u64 passed_messages;
	__u64 causes[SHORT_CIRCUIT_CAUSES];
};

/* What the connections of a pair were that are over; index 0: what the first sent. */
struct short_circuit_total {
	__u64 connections;
	struct short_circuit_sent sent[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct short_circuit_pair);
	__type(value, struct short_circuit_total);
} short_circuit_totals SEC(".maps") __weak;

/* What became of connections that were looked at. */
enum short_circuit_event {
	SHORT_CIRCUIT_EVENT_ADMITTED,
	SHORT_CIRCUIT_EVENT_BLOCKING,	/* not: one of both sockets is blocking, */
	SHORT_CIRCUIT_EVENT_INELIGIBLE, /* one of both workloads is excluded or not selected, */
	SHORT_CIRCUIT_EVENT_NO_SOCKET,	/* one of both ends has none that is established, */
	SHORT_CIRCUIT_EVENT_FULL,	/* there is no room */
	SHORT_CIRCUIT_EVENT_WATCHED,	/* not yet: a workload is still watched, */
	SHORT_CIRCUIT_EVENT_UNACCEPTED, /* nobody has taken the connection */
	SHORT_CIRCUIT_EVENT_LEAVING,	/* it was admitted, and is to leave */
	SHORT_CIRCUIT_EVENT_LOST,	/* and there was no room to tell the agent, who finds it later */
	SHORT_CIRCUIT_EVENTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SHORT_CIRCUIT_EVENTS);
	__type(key, enum short_circuit_event);
	__type(value, __u64);
} short_circuit_events SEC(".maps") __weak;
