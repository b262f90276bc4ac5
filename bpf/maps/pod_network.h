/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Pod packets carried by TC programs: the maps between the agent and the programs in pod_network.bpf.c.
 *
 * Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, so that both families share every lookup.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/* Aligned, or the compiler reads and compares it byte by byte. */
struct address {
	__u8 bytes[16];
} __attribute__((aligned(4)));

enum pod_flag {
	POD_VIA_STACK = 1,     /* the host's stack does something to its packets (a bandwidth limit): never around it */
	POD_OBSERVED = 2,      /* another plugin made its interface: services are translated, nothing else is touched */
	POD_SHORT_CIRCUIT = 4, /* its connections on this node may hand their bytes from socket to socket */
};

/* An address of a pod of this node. `ifindex` is the host's end of its link; 0 in no row. */
struct pod {
	__u64 netns_cookie;
	__u32 ifindex;
	__u32 identity; /* 24 bits, what it is in a tunnel to a node that takes it */
	enum pod_flag flags;
	__u8 mac[6]; /* the pod's end */
	__u8 host_mac[6];
};

/* A link on which other addresses may speak, too. */
struct observed_link {
	__u64 netns_cookie;
};

enum destination_kind {
	DESTINATION_WORLD,	/* outside the cluster: masqueraded. The same as no row */
	DESTINATION_HOST,	/* an address of this node */
	DESTINATION_LOCAL_PODS, /* a pod CIDR of this node */
	DESTINATION_NATIVE,	/* reached by plain routing, under the pod's own address */
	DESTINATION_TUNNEL,	/* pods behind `tunnel` */
	DESTINATION_NODE,     /* an address of a node that is reached by plain routing, and whose pods are behind `tunnel` */
	DESTINATION_EXCLUDED, /* outside the cluster, and not masqueraded by configuration */
	DESTINATION_STACK,    /* left to the host's stack by configuration */
};

enum destination_flag {
	DESTINATION_TAKES_IDENTITY = 1, /* the node there knows pods by their identities; others are told that of all */
};

struct destination_key {
	__u32 prefix_length; /* of the 128 bits; 96 + n for IPv4 */
	struct address address;
};

/* `tunnel`: the address of the node at the other end, for DESTINATION_TUNNEL and DESTINATION_NODE; else zero.
 * `identity_first`..`identity_last`: what workloads of its cluster may be in the tunnel. `source`: a number of `sources`.
 */
struct destination {
	struct address tunnel;
	enum destination_kind kind;
	__u32 identity_first;
	__u32 identity_last;
	__u32 source;
	enum destination_flag flags;
};

/* A device that leads out of the node, by ifindex. Zero: it has no address of that family to masquerade with. */
struct uplink {
	struct address v4;
	struct address v6;
};

struct pod_network_settings {
	struct address node_v4; /* this node's own address in the cluster, zero: none */
	struct address node_v6;
	__u32 tunnel_ifindex; /* 0: no tunnel */
	__u32 pad;
};

/* One direction of a flow, ports in network order; for ICMP echo both ports are the identifier, else 0.
 * As a key it is in canonical order (the smaller endpoint is the source), so that both directions find one entry.
 */
struct tuple {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

enum flow_flag {
	FLOW_REVERSED = 1, /* the initiator is the destination of the canonical key */
	FLOW_ALIAS =
		2, /* the key is the translated side of a flow; `other` is the tuple of its entry, as the initiator sends */
	FLOW_TRANSLATED = 4, /* `other` is what the initiator's packets become */
	FLOW_VIA_STACK = 8,  /* the first packet came through the host's stack: every packet stays on it */
	FLOW_REPLIED = 16,
	FLOW_MASQUERADED = 32, /* `other` has another source */
	FLOW_SERVICE = 64,     /* `other` has another destination */
	FLOW_FIN_INITIATOR = 128,
	FLOW_FIN_RESPONDER = 256,
	FLOW_RESET = 512,
	FLOW_FROM_OUTSIDE = 1024,  /* not begun by its owner: counts against the quota once it was answered */
	FLOW_SHORT_CIRCUIT = 2048, /* of a selected pod: its connection may be admitted, or was */
	FLOW_STAYS_ON_TCP = 4096,  /* it was, and did not profit */
};

enum way_kind {
	WAY_STACK,
	WAY_POD,
	WAY_UPLINK,
	WAY_TUNNEL,  /* through the tunnel's device */
	WAY_NODE,    /* the same without it: what stands outside is written here */
	WAY_NOWHERE, /* a pod of this node that does not exist */
};

/* Where packets go. `node`, `identity`: of the tunnel that they leave through or came in by; 0: none. */
struct way {
	enum way_kind kind;
	__u32 ifindex;
	__u32 mtu;	  /* what is larger does not go this way */
	__u32 hop_family; /* of the next hop, which need not be the packets' */
	__u8 hop[16];	  /* WAY_POD: the link addresses of the frame, the destination's first; else the next hop */
	__be32 node;	  /* the one at the other end, in IPv4 */
	__u32 identity;	  /* what is said of who speaks */
};

/* The way of one direction of a flow as it was found last; lib/kept_way.h says for how long it holds. */
struct kept_way {
	__u64 kept_ns; /* CLOCK_MONOTONIC, coarse; 0: nothing is kept */
	struct way way;
	__u32 from_ifindex; /* the packets come in there */
	__u32 generation;
};

/* `owner`: the pod of this node whose quota it counts against, zero: none. `examined` and what follows it are the short
 * circuit's (lib/admit.h), and so is `look_again_ns`: of the same clock, 0: only when something is decided anew.
 */
struct flow {
	__u64 last_seen_ns; /* CLOCK_MONOTONIC, coarse, renewed about once a second */
	__u64 look_again_ns;
	struct kept_way way; /* of packets between the ends as the key says them */
	struct kept_way way_reversed;
	struct tuple other;
	struct address owner;
	enum flow_flag flags;
	__u32 examined;
	__u32 refusals; /* that make the next pause longer */
	__u32 pad;
};

/* A translated flow while its two entries are made. */
struct flow_draft {
	struct flow flow;
	struct flow alias;
	struct tuple key; /* of the flow */
	struct tuple alias_key;
	__u64 of_node; /* 1: under an address of the node: ports of the range only, and none that a socket holds */
};

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 identification;
	__u8 protocol;
	__u8 pad[3];
};

struct fragment_ports {
	__be16 source_port;
	__be16 destination_port;
};

/* By how far they are: that says when they are forgotten. */
struct flow_counts {
	__u64 unanswered;
	__u64 established; /* TCP */
	__u64 closing;	   /* TCP, ended by one side at least */
	__u64 datagram;	   /* any other protocol */
	__u64 echo;
};

/* What pod_network_expire answers in its context. Flows, not entries: a translated one counts once. `masqueraded` and
 * `services` are of the kept ones; `orphans` are second entries whose first was pushed out.
 */
struct flow_expiry {
	struct flow_counts kept;
	struct flow_counts expired;
	__u64 orphans;
	__u64 masqueraded;
	__u64 services;
};

enum pod_network_event {
	POD_NETWORK_TO_POD, /* handed to a pod of this node, past the host's stack */
	POD_NETWORK_TO_UPLINK,
	POD_NETWORK_TO_TUNNEL,
	POD_NETWORK_TO_STACK,
	POD_NETWORK_FLOWS_CREATED,
	POD_NETWORK_FLOWS_REFUSED,
	POD_NETWORK_NEIGHBOUR_ANSWERED,
	POD_NETWORK_EVENTS,
};

/* Written by the agent, one row for each address of each pod of this node. Missing: no pod of this node. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, struct pod);
} pods SEC(".maps") __weak;

/* Written by the agent, by ifindex: the host's end of a link that another plugin made, with a row of `pods` for each address
 * that the plugin told. Missing: nobody but the pod of such a row speaks there.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct observed_link);
} observed_links SEC(".maps") __weak;

/* Written by the agent. Missing: the world. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct destination_key);
	__type(value, struct destination);
} destinations SEC(".maps") __weak;

/* Written by the agent. Missing: no packet is redirected to that device. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct uplink);
} uplinks SEC(".maps") __weak;

/* Written by the agent, one entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pod_network_settings);
} pod_network_settings SEC(".maps") __weak;

/* Written by the agent, one entry: another number whenever something that a way was found by is another. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} way_generation SEC(".maps") __weak;

/* Flows that were answered. Written by the programs, expired by pod_network_expire. Not LRU: nobody pushes them out. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple);
	__type(value, struct flow);
} flows SEC(".maps") __weak;

/* Flows that were not answered yet: they push out each other, never one of `flows`. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tuple);
	__type(value, struct flow);
} new_flows SEC(".maps") __weak;

/* Written and read within one run of a program: too large for its stack. TC programs do not interrupt each other. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_draft);
} flow_drafts SEC(".maps") __weak;

/* How many flows a pod of this node began that are not over: counted by the programs, set right by pod_network_expire. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u64);
} pod_flows SEC(".maps") __weak;

/* Written and read within one run of pod_network_expire: `pod_flows`, counted anew. Missing: not seen in that run. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u64);
} pod_flows_counted SEC(".maps") __weak;

/* The ports of fragmented packets, from their first fragment, for the later ones. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_ports);
} fragments SEC(".maps") __weak;

/* Counted by the programs, summed by the agent; index: enum pod_network_event. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, POD_NETWORK_EVENTS);
	__type(key, enum pod_network_event);
	__type(value, __u64);
} pod_network_events SEC(".maps") __weak;
