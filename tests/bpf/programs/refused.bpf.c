// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* A program that no verifier accepts: it dereferences a lookup without asking whether it succeeded. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} unchecked SEC(".maps");

SEC("cgroup/connect4")
int accepted(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/connect4")
int dereferences_null(struct bpf_sock_addr *ctx)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&unchecked, &key);

	return *value == 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
