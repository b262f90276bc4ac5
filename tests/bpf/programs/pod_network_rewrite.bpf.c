// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* rewrite() alone, with the ends that a test asks for. */
#include "lib/parse.h"
#include "lib/rewrite.h"

/* Written by the test: what the packet is to become. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tuple);
} wanted SEC(".maps");

SEC("tc")
int rewrite_packet(struct __sk_buff *skb)
{
	struct packet packet = {};
	__u32 only = 0;
	const struct tuple *to = bpf_map_lookup_elem(&wanted, &only);

	if (!to)
		return -1;
	parse(skb, &packet);
	return rewrite(skb, &packet, to);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
