/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* No packet is dropped without a reason that is counted. */
#pragma once

#include <linux/pkt_cls.h>
#include "maps/drops.h"

static __noinline int drop(struct __sk_buff *skb, enum drop_reason reason, enum drop_direction direction)
{
	__u32 index = reason * DROP_DIRECTIONS + direction;
	struct drop_count *counted = bpf_map_lookup_elem(&drops, &index);

	if (counted) {
		counted->packets += 1;
		counted->bytes += skb->len;
	}
	return TC_ACT_SHOT;
}
