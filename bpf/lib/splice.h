/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who calls splice() on a socket finds nothing of what was handed over: in the kernel that call reads the queue of TCP only. So
 * a workload that is seen doing so is excluded from then on, and its sockets leave. io_uring does the same without a system call
 * of that name, and refuses to send without a copy on a socket that was ever in a sockmap (sock_replace_proto, include/net/sock.h).
 */
#pragma once

#include "lib/kernel_socket.h"
#include "lib/short_circuit.h"

#define FILE_KIND   0170000 /* include/uapi/linux/stat.h */
#define FILE_SOCKET 0140000

/* What the kernel hands to tracepoints of system calls (/sys/kernel/tracing/events/syscalls/sys_enter_splice/format). */
struct entered_call {
	__u64 common;
	__u64 number;
	__u64 arguments[6];
};

/* The same of a request to io_uring (events/io_uring/io_uring_submit_req/format). */
struct submitted_request {
	__u64 common;
	__u64 ring;
	__u64 request;
	__u64 user_data;
	__u8 opcode;
};

/* include/uapi/linux/io_uring.h */
#define IORING_OP_SPLICE     30
#define IORING_OP_TEE	     33
#define IORING_OP_SEND_ZC    47
#define IORING_OP_SENDMSG_ZC 48

struct nsproxy {
	struct net *net_ns;
} KERNEL;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} KERNEL;

struct files_struct {
	struct fdtable *fdt;
} KERNEL;

struct task_struct {
	struct files_struct *files;
	struct nsproxy *nsproxy;
	int tgid;
} KERNEL;

/* The namespace of the socket behind a descriptor of the process that runs; 0: it is none. */
static __always_inline __u64 netns_of_socket(const struct task_struct *task, __u32 number)
{
	const struct fdtable *table = task->files->fdt;
	struct file *file = NULL;
	struct socket *socket;
	struct sock *sock;

	if (number >= table->max_fds || bpf_probe_read_kernel(&file, sizeof(file), &table->fd[number]) || !file)
		return 0;
	if ((BPF_CORE_READ(file, f_inode, i_mode) & FILE_KIND) != FILE_SOCKET)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	sock = BPF_CORE_READ(socket, sk);
	return sock ? BPF_CORE_READ(sock, __sk_common.skc_net.net, net_cookie) : 0;
}

static __always_inline void exclude(const struct task_struct *task, __u64 netns_cookie, enum short_circuit_exclusion why)
{
	struct short_circuit_watch seen = { .exclusion = why, .process = task->tgid };
	struct short_circuit_watch *watch = bpf_map_lookup_elem(&short_circuit_watches, &netns_cookie);

	if (watch && watch->exclusion)
		return;
	if (watch) {
		watch->process = seen.process;
		watch->exclusion = why;
	} else {
		seen.watched_since_ns = bpf_ktime_get_ns();
		bpf_map_update_elem(&short_circuit_watches, &netns_cookie, &seen, BPF_NOEXIST);
	}
	raise_short_circuit_epoch();
}

static __always_inline void saw_splice(const struct entered_call *call)
{
	const struct task_struct *task = bpf_get_current_task_btf();
	__u64 from = netns_of_socket(task, call->arguments[0]), to = netns_of_socket(task, call->arguments[2]);

	if (from)
		exclude(task, from, SHORT_CIRCUIT_SPLICES);
	if (to && to != from)
		exclude(task, to, SHORT_CIRCUIT_SPLICES);
}

/* Where the files of a request are is known later only: so whatever it splices excludes who asks for it. */
static __always_inline void saw_request(const struct submitted_request *request)
{
	const struct task_struct *task = bpf_get_current_task_btf();
	enum short_circuit_exclusion why;

	switch (request->opcode) {
	case IORING_OP_SPLICE:
		why = SHORT_CIRCUIT_SPLICES;
		break;
	case IORING_OP_TEE:
		why = SHORT_CIRCUIT_TEES;
		break;
	case IORING_OP_SEND_ZC:
	case IORING_OP_SENDMSG_ZC:
		why = SHORT_CIRCUIT_SENDS_ZC;
		break;
	default:
		return;
	}
	exclude(task, task->nsproxy->net_ns->net_cookie, why);
}
