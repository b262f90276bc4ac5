/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel knows of a socket and programs are not told: read where the kernel of this machine has it (CO-RE).
 *
 * A pointer that is read this way is good for reading only. If what it pointed to is gone, other bytes or zeros are read,
 * and nothing worse happens; memory of TCP sockets stays memory of TCP sockets (SLAB_TYPESAFE_BY_RCU).
 */
#pragma once

#include "lib/packet.h"
#include <bpf/bpf_core_read.h>

#define KERNEL	   __attribute__((preserve_access_index))

#define O_NONBLOCK 04000 /* include/uapi/asm-generic/fcntl.h */

/* The lowest bits of sk_user_data say what it is (include/net/sock.h). */
#define USER_DATA_POINTER (~7ULL)

struct in6_addr___kernel {
	union {
		__be32 u6_addr32[4];
	} in6_u;
} KERNEL;

struct net {
	__u64 net_cookie;
} KERNEL;

typedef struct {
	struct net *net;
} KERNEL possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr___kernel skc_v6_daddr;
	struct in6_addr___kernel skc_v6_rcv_saddr;
	unsigned long skc_flags;
	possible_net_t skc_net;
} KERNEL;

struct sk_buff_head {
	__u32 qlen;
} KERNEL;

struct inode {
	unsigned short i_mode;
} KERNEL;

struct file {
	unsigned int f_flags;
	struct inode *f_inode;
	void *private_data;
} KERNEL;

struct sock;

struct socket {
	struct file *file;
	struct sock *sk;
} KERNEL;

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	int sk_rcvlowat;
	struct socket *sk_socket;
	void *sk_user_data;
} KERNEL;

struct inet_connection_sock {
	const void *icsk_ulp_ops;
} KERNEL;

struct tcp_sock {
	__u32 snd_una;
	__u32 write_seq;
} KERNEL;

typedef struct refcount_struct {
	struct {
		volatile int counter;
	} refs;
} KERNEL refcount_t;

struct sk_psock {
	__u32 msg_tot_len;
	refcount_t refcnt;
} KERNEL;

enum sock_flags {
	SOCK_ZEROCOPY = 27, /* the kernel's number is asked for */
};

extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

static __always_inline const struct sock *kernel_sock(const void *pointer)
{
	return bpf_rdonly_cast(pointer, bpf_core_type_id_kernel(struct sock));
}

static __always_inline const struct tcp_sock *kernel_tcp_sock(const void *pointer)
{
	return bpf_rdonly_cast(pointer, bpf_core_type_id_kernel(struct tcp_sock));
}

/* What a sockmap keeps of a socket that is in it; NULL: it is in none. */
static __always_inline const struct sk_psock *kernel_psock(const struct sock *sock)
{
	__u64 pointer = (__u64)sock->sk_user_data & USER_DATA_POINTER;

	return pointer ? bpf_rdonly_cast((void *)pointer, bpf_core_type_id_kernel(struct sk_psock)) : NULL;
}

enum socket_mode {
	SOCKET_ORPHAN, /* nobody has a descriptor of it: not accepted yet, or closed */
	SOCKET_BLOCKING,
	SOCKET_NONBLOCKING,
};

static __always_inline enum socket_mode socket_mode(const struct sock *sock)
{
	const struct socket *socket = sock->sk_socket;
	const struct file *file = socket ? socket->file : NULL;

	if (!file)
		return SOCKET_ORPHAN;
	return file->f_flags & O_NONBLOCK ? SOCKET_NONBLOCKING : SOCKET_BLOCKING;
}

static __always_inline bool socket_is_zerocopy(const struct sock *sock)
{
	return sock->__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY) & 1;
}

/* Whether the kernel does something to its bytes (TLS): what it is given is not what the other end is to read. */
static __always_inline bool socket_has_layer(const struct sock *sock)
{
	const struct inet_connection_sock *connection =
		bpf_rdonly_cast(sock, bpf_core_type_id_kernel(struct inet_connection_sock));

	return connection->icsk_ulp_ops;
}

/* The socket's ends as it sees them itself: what it sends goes from `source` to `destination`. */
static __always_inline void socket_tuple(const struct sock *sock, struct tuple *tuple)
{
	const struct sock_common *common = &sock->__sk_common;

	if (common->skc_family == AF_INET) {
		tuple->source = address_v4(common->skc_rcv_saddr);
		tuple->destination = address_v4(common->skc_daddr);
	} else {
		__u32 *source = (__u32 *)&tuple->source, *destination = (__u32 *)&tuple->destination;

		for (int word = 0; word < 4; word++) {
			source[word] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[word];
			destination[word] = common->skc_v6_daddr.in6_u.u6_addr32[word];
		}
	}
	tuple->source_port = bpf_htons(common->skc_num);
	tuple->destination_port = common->skc_dport;
	tuple->protocol = IPPROTO_TCP;
	__builtin_memset(tuple->pad, 0, sizeof(tuple->pad));
}
