// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* One map or program of each kind that the kernel layer handles, for its tests; loaded by nothing else. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum probe_kind {
	PROBE_FIRST = 1,
	PROBE_SECOND = 7,
};

struct probe_address {
	__u8 octets[16];
	__be32 scope;
	__be16 port;
	__u16 pad;
};

struct probe_row {
	__u64 created_ns;
	struct probe_address address;
	__s32 weight;
	__u32 shares[3];
	enum probe_kind kind;
	char name[12];
	_Bool ready;
	__u8 pad_after_ready[7];
};

struct probe_event {
	__u64 sequence;
	__u32 cpu;
	__u32 pad;
};

/* Keyed by an address; tests write and read it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, struct probe_address);
	__type(value, struct probe_row);
} rows SEC(".maps");

/* How often `count_connect` ran, by kind. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

/* One probe_event for each that `emit` is asked for. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");

const volatile __u32 verdict = 1;
const volatile __be16 refused_port;
const volatile struct probe_address refused_address;

static void count(__u32 kind)
{
	__u64 *hit = bpf_map_lookup_elem(&hits, &kind);

	if (hit)
		*hit += 1;
}

SEC("cgroup/connect4")
int count_connect(struct bpf_sock_addr *ctx)
{
	count(PROBE_FIRST);
	if (refused_port && (__be16)ctx->user_port == refused_port)
		return 0;
	return verdict;
}

SEC("cgroup/connect4")
int count_connect_second(struct bpf_sock_addr *ctx)
{
	count(PROBE_SECOND);
	return 1;
}

SEC("tc")
int pass_packet(struct __sk_buff *skb)
{
	count(PROBE_FIRST);
	return skb->len == 0 ? 2 : -1;
}

SEC("xdp")
int pass_frame(struct xdp_md *ctx)
{
	count(PROBE_SECOND);
	return XDP_PASS;
}

struct emit_request {
	__u32 count;
	__u32 size;
};

struct emission {
	__u32 lost;
	__u32 size;
};

static long emit_one(__u64 index, struct emission *emission)
{
	struct probe_event event = { .sequence = index };
	__u8 odd[5] = {};
	long refused;

	if (emission->size == sizeof(event))
		refused = bpf_ringbuf_output(&events, &event, sizeof(event), 0);
	else
		refused = bpf_ringbuf_output(&events, odd, sizeof(odd), 0);
	emission->lost += refused != 0;
	return 0;
}

/* Emits `count` events of `size` bytes; how many found no room. */
SEC("syscall")
int emit(struct emit_request *request)
{
	struct emission emission = { .size = request->size };

	bpf_loop(request->count, emit_one, &emission, 0);
	request->count = refused_address.scope;
	return emission.lost;
}

/* Makes probe_event known to BTF: a type that only a ring buffer carries appears nowhere else. */
const struct probe_event *unused_probe_event __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";
