/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Why packets were dropped, counted. The same words in `meshctl metrics drops`, in /metrics and in logs. */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

enum drop_reason {
	DROP_NONE,		  /* not a drop: what a function answers when all is well */
	DROP_MALFORMED,		  /* headers that do not fit the packet or each other */
	DROP_SOURCE_NOT_THE_PODS, /* a pod sent from an address that is not its own */
	DROP_SOURCE_LOCAL_POD,	  /* from an uplink, with a source in this node's pod CIDRs, or its own */
	DROP_SOURCE_NOT_NATIVE,	  /* from an uplink, with a source that is only to come through a tunnel */
	DROP_TUNNEL_UNKNOWN_NODE, /* from the tunnel, the outer source is no node we know */
	DROP_TUNNEL_SOURCE,	  /* from the tunnel, the inner source does not belong to the outer one */
	DROP_TUNNEL_IDENTITY,	  /* from the tunnel, a number that this node may not send */
	DROP_NO_SUCH_POD,	  /* to an address in this node's pod CIDRs that no pod has */
	DROP_NO_BACKEND,	  /* to a service that has no backend */
	DROP_FLOW_TABLE_FULL,
	DROP_FLOW_QUOTA,	    /* the pod has as many flows as it may */
	DROP_NO_MASQUERADE_PORT,    /* every port for this destination is taken */
	DROP_NO_MASQUERADE_ADDRESS, /* the uplink has no address of this family */
	DROP_FRAGMENT_UNKNOWN,	    /* a later fragment of a translated packet whose first one was not seen */
	DROP_NO_FLOW,		    /* needs a translation, and nobody knows which */
	DROP_REASONS,
};

enum drop_direction {
	DROP_FROM_POD,
	DROP_TO_POD,
	DROP_DIRECTIONS,
};

struct drop_count {
	__u64 packets;
	__u64 bytes;
};

/* Counted by the TC programs, summed by the agent; index: reason * DROP_DIRECTIONS + direction. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASONS *DROP_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct drop_count);
} drops SEC(".maps") __weak;
