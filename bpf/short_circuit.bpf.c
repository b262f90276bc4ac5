// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Messages of same-node connections go from socket to socket (`short_circuit`). TC admits the connections (lib/admit.h). */
#include <linux/pkt_cls.h>
#include "lib/examine.h"
#include "lib/message.h"
#include "lib/splice.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Of each message that a socket in `short_circuit_sockets` sends. A socket keeps the program that it met when it was put in,
 * so this one decides nothing: what is in the slot now does.
 */
SEC("sk_msg")
int short_circuit_stub(struct sk_msg_md *msg)
{
	bpf_tail_call(msg, &short_circuit_programs, 0);
	return SK_PASS;
}

static __always_inline bool find_connection(struct sk_msg_md *msg, const struct sock *sock, struct message *message)
{
	struct short_circuit_connection *connection;

	socket_tuple(sock, &message->tuple);
	message->reversed = flow_key(&message->tuple, &message->key);
	connection = bpf_map_lookup_elem(&short_circuit_connections, &message->key);
	if (!connection)
		return false;
	message->connection = connection;
	message->own = message->reversed ? &connection->ends[1] : &connection->ends[0];
	message->peer = message->reversed ? &connection->ends[0] : &connection->ends[1];
	message->size = msg->size;
	/* Somebody within a pod may have a namespace of his own, with the same addresses. */
	return message->own->netns_cookie == bpf_get_netns_cookie(msg);
}

static __always_inline bool hand_over(struct sk_msg_md *msg, const struct message *message)
{
	struct short_circuit_key to = {
		.local = message->tuple.destination,
		.remote = message->tuple.source,
		.local_port = message->tuple.destination_port,
		.remote_port = message->tuple.source_port,
		.netns_cookie = message->peer->netns_cookie,
	};

	return bpf_msg_redirect_hash(msg, &short_circuit_sockets, &to, BPF_F_INGRESS) == SK_PASS;
}

SEC("sk_msg")
int short_circuit_decide(struct sk_msg_md *msg)
{
	const struct sock *sock = kernel_sock(msg->sk);
	enum short_circuit_cause cause;
	struct message message = {};

	if (!sock || !find_connection(msg, sock, &message))
		return SK_PASS;
	if (!message.own->socket)
		message.own->socket = (__u64)sock;
	cause = gates(&message, sock);
	if (!cause && !hand_over(msg, &message))
		cause = SHORT_CIRCUIT_NO_PEER;
	if (!cause) {
		count_taken(message.own, message.size);
	} else {
		count_passed(message.own, message.size, cause);
		if (is_for_good(cause) || is_full_often(message.own, cause))
			leave(&message, cause);
	}
	look_at_profit(&message, cause);
	return cause == SHORT_CIRCUIT_REFUSED ? SK_DROP : SK_PASS;
}

/* On as long as a workload is selected: one such program slows every system call of the machine. */
SEC("tracepoint/syscalls/sys_enter_splice")
int short_circuit_splice(struct entered_call *call)
{
	saw_splice(call);
	return 0;
}

/* Between two pipes: what came from a socket got there by splice(), perhaps before anybody looked. */
SEC("tracepoint/syscalls/sys_enter_tee")
int short_circuit_tee(struct entered_call *call)
{
	const struct task_struct *task = bpf_get_current_task_btf();

	exclude(task, task->nsproxy->net_ns->net_cookie, SHORT_CIRCUIT_TEES);
	return 0;
}

/* Of each request to io_uring, by whatever thread it is taken up. */
SEC("tracepoint/io_uring/io_uring_submit_req")
int short_circuit_request(struct submitted_request *request)
{
	saw_request(request);
	return 0;
}

/* Run by the agent about a connection that is leaving: what is still under way. */
struct short_circuit_check {
	struct tuple key;
	__u32 senders[2]; /* calls that were begun on each socket and have not ended; more than 0 also while it is read */
	__u32 waiting[2]; /* bytes in the queue of each */
	__u32 found;	  /* 0: there is no such connection */
	__u32 pad;
};

/* For so long it is waited for the moment between two calls of who sends or reads all the while. */
#define BETWEEN_CALLS_NS    200000
#define BETWEEN_CALLS_LOOKS (1 << 16)

struct calls_wait {
	const struct sk_psock *psock;
	__u64 end_ns;
	__u32 calls;
	__u32 pad;
};

static long look_at_calls(__u32 turn, struct calls_wait *wait)
{
	wait->calls = wait->psock->refcnt.refs.counter - 1;
	return !wait->calls || bpf_ktime_get_ns() > wait->end_ns;
}

static __always_inline const struct sk_psock *psock_of(const struct short_circuit_end *end)
{
	return end->socket ? kernel_psock(kernel_sock((const void *)end->socket)) : NULL;
}

/* How many calls are under way; 0 also if there was one moment without: what begins later knows that nothing may be handed over. */
static __always_inline __u32 calls_of(const struct short_circuit_end *end)
{
	struct calls_wait wait = { .psock = psock_of(end), .end_ns = bpf_ktime_get_ns() + BETWEEN_CALLS_NS };

	if (wait.psock)
		bpf_loop(BETWEEN_CALLS_LOOKS, look_at_calls, &wait, 0);
	return wait.calls;
}

static __always_inline __u32 waiting_of(const struct short_circuit_end *end)
{
	const struct sk_psock *psock = psock_of(end);

	/* Where nobody knows the socket, bytes may wait; where it is in no map any more, none does. */
	return psock ? psock->msg_tot_len : !end->socket;
}

SEC("syscall")
int short_circuit_check(struct short_circuit_check *check)
{
	const struct short_circuit_connection *connection;
	struct tuple key = check->key;

	connection = bpf_map_lookup_elem(&short_circuit_connections, &key);
	if (!connection)
		return 0;
	/* First calls, then queues: one that was seen to be filled by nobody stays empty once it is. */
	for (int at = 0; at < 2; at++)
		check->senders[at] = calls_of(&connection->ends[at]);
	for (int at = 0; at < 2; at++)
		check->waiting[at] = waiting_of(&connection->ends[at]);
	check->found = 1;
	return 0;
}

/* Run by the agent: the connection is to leave, for the cause in `found`. */
SEC("syscall")
int short_circuit_ask(struct short_circuit_check *check)
{
	struct short_circuit_connection *connection;
	struct tuple key = check->key;

	connection = bpf_map_lookup_elem(&short_circuit_connections, &key);
	if (connection &&
	    !(__sync_fetch_and_or((__u32 *)&connection->flags, SHORT_CIRCUIT_IS_LEAVING) & SHORT_CIRCUIT_IS_LEAVING))
		connection->leaves = check->found;
	return 0;
}

/* Where an end's socket is, as the map of sockets knows it. */
static __always_inline void find_socket(struct short_circuit_end *end, const struct tuple *sent)
{
	struct short_circuit_key key = socket_key(sent, end->netns_cookie);
	struct bpf_sock *found = bpf_map_lookup_elem(&short_circuit_sockets, &key);

	if (!found)
		return;
	end->socket = (__u64)found;
	bpf_sk_release(found);
}

/* Run by the agent about a connection whose sockets are in the map, and whose row it has made again. In the packet, behind its
 * link addresses: the row's key. A program of this type, because no other may take a socket out of a map to look at it.
 */
SEC("tc")
int short_circuit_adopt(struct __sk_buff *skb)
{
	struct short_circuit_connection *connection;
	struct tuple key, answer;

	if (bpf_skb_load_bytes(skb, L3_OFFSET, &key, sizeof(key)))
		return TC_ACT_SHOT;
	connection = bpf_map_lookup_elem(&short_circuit_connections, &key);
	if (!connection)
		return TC_ACT_SHOT;
	find_socket(&connection->ends[0], &key);
	answer = tuple_reverse(&key);
	find_socket(&connection->ends[1], &answer);
	return TC_ACT_OK;
}

/* Run by the agent, because who splices may be excluded in the same instant. */
SEC("syscall")
int short_circuit_raise(void *nothing)
{
	raise_short_circuit_epoch();
	return 0;
}

/* Run by the agent when both sockets have left: the row goes, its counts stay. */
SEC("syscall")
int short_circuit_forget(struct short_circuit_check *check)
{
	struct tuple key = check->key;

	check->found = short_circuit_close(&key);
	return 0;
}
