/* SPDX-License-Identifier: Apache-2.0
 *
 * The little that is better said in C than through cffi: libbpf's varargs log, kernel info structs that grow with every
 * release, and the ring buffer drain that must not call Python for each event.
 */
#ifndef MESHD_KERNEL_SHIM_H
#define MESHD_KERNEL_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

/* libbpf's warnings of this thread since the last take: its errno alone says little ("Invalid argument"). */
void meshd_log_install(void);
size_t meshd_log_take(char *out, size_t size);

/* All return 0 or -errno. Numbers the running kernel does not report are 0. */
struct meshd_map_info {
	uint32_t type, id, key_size, value_size, max_entries, flags;
	uint32_t btf_id, key_type, value_type; /* of the kernel's own copy of the map's types; 0: it has none */
	char name[16];
};
struct meshd_prog_info {
	uint32_t type, id, verified_insns;
	uint8_t tag[8];
	char name[16];
};
struct meshd_link_info {
	uint32_t type, id, prog_id;
	uint32_t attach_type; /* cgroup, tcx and netns links */
	uint32_t ifindex;     /* tcx and xdp links */
	uint64_t cgroup_id;   /* cgroup links */
};
int meshd_map_info(int fd, struct meshd_map_info *out);
int meshd_prog_info(int fd, struct meshd_prog_info *out);
int meshd_link_info(int fd, struct meshd_link_info *out);
/* The types under that id; *size is in: room, out: how much there is, whether it had room or not. */
int meshd_btf_data(uint32_t btf_id, void *out, uint32_t *size);
/* The id of a struct of the running kernel, or -errno. */
int meshd_kernel_struct(const char *name);
/* 1: the running kernel's struct has such a member, 0: it has not, or -errno. */
int meshd_kernel_member(const char *name, const char *member);

/* Runs a program on `data` and `ctx` (both in and out); *_size are in: room, out: written. */
struct meshd_test_run {
	const void *data_in;
	void *data_out;
	uint32_t data_size_in, data_size_out;
	void *ctx;
	uint32_t ctx_size;
	int repeat;
	uint32_t retval, duration_ns;
};
int meshd_prog_test_run(int fd, struct meshd_test_run *run);

/* A ring buffer that is drained into one arena of `capacity` records of `record_size` bytes each. */
struct meshd_ring {
	struct ring_buffer *rings;
	uint8_t *arena;
	uint32_t record_size, capacity;
	uint32_t used;	    /* records in the arena since the last drain */
	uint64_t malformed; /* events of another size: a layout both sides do not share */
};
int meshd_ring_open(struct meshd_ring *ring, int map_fd, uint32_t record_size, uint32_t capacity);
int meshd_ring_epoll_fd(const struct meshd_ring *ring);
/* 1: the arena is full and more may wait, 0: the ring is empty, -errno. The arena is refilled from its start. */
int meshd_ring_drain(struct meshd_ring *ring);
void meshd_ring_close(struct meshd_ring *ring);

#endif
