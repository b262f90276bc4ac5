// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Service addresses answered at the socket (`socket_lb`).
 *
 * connect() and sendmsg() to a frontend get a backend's address before the kernel sees the destination; getpeername() and
 * recvmsg() give the frontend back. Nothing runs on the established path. Each hook: context in, decision, verdict out.
 */
#include "maps/socket_lb.h"
#include "lib/balance.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Verdicts of cgroup sock_addr programs: kernel/bpf/cgroup.c. */
enum {
	REFUSE = 0,
	PROCEED = 1,
};

static __always_inline int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline struct endpoint destination4(struct bpf_sock_addr *ctx)
{
	return endpoint_v4(ctx->user_ip4, ctx->user_port, ctx->protocol);
}

static __always_inline struct endpoint destination6(struct bpf_sock_addr *ctx)
{
	__u32 words[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	return endpoint_v6(words, ctx->user_port, ctx->protocol);
}

static __always_inline void set_destination4(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	ctx->user_ip4 = endpoint_word(to, 3);
	ctx->user_port = to->port;
}

static __always_inline void set_destination6(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	ctx->user_ip6[0] = endpoint_word(to, 0);
	ctx->user_ip6[1] = endpoint_word(to, 1);
	ctx->user_ip6[2] = endpoint_word(to, 2);
	ctx->user_ip6[3] = endpoint_word(to, 3);
	ctx->user_port = to->port;
}

SEC("cgroup/connect4")
int socket_lb_connect4(struct bpf_sock_addr *ctx)
{
	struct endpoint destination = destination4(ctx), backend;

	switch (balance_connect(ctx, &destination, &backend)) {
	case BALANCE_TRANSLATE:
		set_destination4(ctx, &backend);
		return PROCEED;
	case BALANCE_REFUSE:
		return refuse();
	default:
		return PROCEED;
	}
}

SEC("cgroup/connect6")
int socket_lb_connect6(struct bpf_sock_addr *ctx)
{
	struct endpoint destination = destination6(ctx), backend;

	switch (balance_connect(ctx, &destination, &backend)) {
	case BALANCE_TRANSLATE:
		set_destination6(ctx, &backend);
		return PROCEED;
	case BALANCE_REFUSE:
		return refuse();
	default:
		return PROCEED;
	}
}

SEC("cgroup/sendmsg4")
int socket_lb_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct endpoint destination = destination4(ctx), backend;

	switch (balance_datagram(ctx, &destination, &backend)) {
	case BALANCE_TRANSLATE:
		set_destination4(ctx, &backend);
		return PROCEED;
	case BALANCE_REFUSE:
		return refuse();
	default:
		return PROCEED;
	}
}

SEC("cgroup/sendmsg6")
int socket_lb_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct endpoint destination = destination6(ctx), backend;

	switch (balance_datagram(ctx, &destination, &backend)) {
	case BALANCE_TRANSLATE:
		set_destination6(ctx, &backend);
		return PROCEED;
	case BALANCE_REFUSE:
		return refuse();
	default:
		return PROCEED;
	}
}

SEC("cgroup/recvmsg4")
int socket_lb_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct endpoint peer = destination4(ctx), frontend;

	if (balance_reverse(ctx, &peer, &frontend))
		set_destination4(ctx, &frontend);
	return PROCEED;
}

SEC("cgroup/recvmsg6")
int socket_lb_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct endpoint peer = destination6(ctx), frontend;

	if (balance_reverse(ctx, &peer, &frontend))
		set_destination6(ctx, &frontend);
	return PROCEED;
}

SEC("cgroup/getpeername4")
int socket_lb_getpeername4(struct bpf_sock_addr *ctx)
{
	struct endpoint peer = destination4(ctx), frontend;

	if (balance_reverse(ctx, &peer, &frontend))
		set_destination4(ctx, &frontend);
	return PROCEED;
}

SEC("cgroup/getpeername6")
int socket_lb_getpeername6(struct bpf_sock_addr *ctx)
{
	struct endpoint peer = destination6(ctx), frontend;

	if (balance_reverse(ctx, &peer, &frontend))
		set_destination6(ctx, &frontend);
	return PROCEED;
}

/* A connection that somebody began here is there. */
SEC("sockops")
int socket_lb_answered(struct bpf_sock_ops *ctx)
{
	struct endpoint backend;
	__u32 words[4], v4;
	__be16 port;

	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		return PROCEED;
	/* A big-endian word whose upper half is the port (net/core/filter.c, sock_ops_convert_ctx_access). */
	port = bpf_htons(bpf_ntohl(ctx->remote_port));
	/* Each field on its own: the compiler would read one of two at an offset, and the verifier takes no such context. */
	v4 = *(volatile __u32 *)&ctx->remote_ip4;
	words[0] = ctx->remote_ip6[0];
	words[1] = ctx->remote_ip6[1];
	words[2] = ctx->remote_ip6[2];
	words[3] = *(volatile __u32 *)&ctx->remote_ip6[3];
	backend = ctx->family == AF_INET ? endpoint_v4(v4, port, IPPROTO_TCP) : endpoint_v6(words, port, IPPROTO_TCP);
	note_answer(&backend);
	return PROCEED;
}

SEC("cgroup/sock_release")
int socket_lb_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	bpf_map_delete_elem(&connections, &cookie);
	return PROCEED;
}
