/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether a message goes straight into the queue of the other socket, looked at anew for each: order, room, and that neither
 * socket is used in a way in which it would be noticed.
 */
#pragma once

#include "lib/kernel_socket.h"
#include "lib/short_circuit.h"

/* How much of one end's may wait in the other's queue. */
const volatile __u32 short_circuit_queue_bytes = 4194304;
const volatile __u32 short_circuit_queue_messages = 1000;
/* How often it is looked whether a connection profits. */
const volatile __u64 short_circuit_period_ns = 250000000;

/* Messages between two marks. */
#define MARK_MESSAGES 16
/* How many marks may be found read at once: more were read than one message can make up for, and the next go on. */
#define MARKS_AT_ONCE 8
/* Messages in a period that say something about a stream, and between which sizes TCP is faster by putting them together. */
#define PERIOD_MESSAGES	 64
#define ONE_WAY_MESSAGES 1000
#define SMALL_FIRST	 512
#define SMALL_LAST	 4096
/* How often a queue may be full in a period in which two messages of three went on TCP: it is too short for this reader. */
#define FULL_OFTEN 4

struct message {
	struct tuple tuple; /* as the sender sees it */
	struct tuple key;
	struct short_circuit_connection *connection;
	struct short_circuit_end *own;
	const struct short_circuit_end *peer;
	__u32 size;
	bool reversed;
};

static __always_inline bool is_full(enum short_circuit_cause cause)
{
	return cause == SHORT_CIRCUIT_QUEUE_BYTES || cause == SHORT_CIRCUIT_QUEUE_MESSAGES;
}

/* What a stream is, it stays, also when all are looked at anew; how a socket waits or is read may change. */
static __always_inline void remember(const struct tuple *key, enum short_circuit_cause cause)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, key);

	if (!flow)
		return;
	if (cause == SHORT_CIRCUIT_STAYS_ON_TCP || cause == SHORT_CIRCUIT_SMALL_ONE_WAY)
		__sync_fetch_and_or((__u32 *)&flow->flags, FLOW_STAYS_ON_TCP);
	else if (cause == SHORT_CIRCUIT_BLOCKING || is_full(cause))
		look_again_later(flow);
}

/* Nothing is handed over any more, and the agent is told. */
static __always_inline void leave(struct message *message, enum short_circuit_cause cause)
{
	struct short_circuit_connection *connection = message->connection;

	if (__sync_fetch_and_or((__u32 *)&connection->flags, SHORT_CIRCUIT_IS_LEAVING) & SHORT_CIRCUIT_IS_LEAVING)
		return;
	connection->leaves = cause;
	remember(&message->key, cause);
	count_short_circuit(SHORT_CIRCUIT_EVENT_LEAVING);
	if (bpf_ringbuf_output(&short_circuit_leaving, &message->key, sizeof(message->key), 0))
		count_short_circuit(SHORT_CIRCUIT_EVENT_LOST);
}

/* What still waits of the messages that were handed over: never too few, at most a mark's too many. */
static __always_inline __u64 waiting_messages(struct short_circuit_end *own, __u32 waiting_bytes)
{
	__u64 read = own->bytes - waiting_bytes;

	if (!waiting_bytes)
		own->read_marks = own->messages / MARK_MESSAGES;
	for (int turn = 0; turn < MARKS_AT_ONCE; turn++) {
		if (own->read_marks >= own->messages / MARK_MESSAGES ||
		    own->marks[(own->read_marks + 1) % SHORT_CIRCUIT_MARKS] > read)
			break;
		own->read_marks++;
	}
	return own->messages - own->read_marks * MARK_MESSAGES;
}

/* The other socket's side of it. */
static __always_inline enum short_circuit_cause peer_gates(const struct message *message)
{
	const struct sock *sock = kernel_sock((const void *)message->peer->socket);
	const struct sock_common *common = &sock->__sk_common;
	const struct sk_psock *psock;
	__u32 waiting;

	/* Its memory may be another socket's by now. */
	if (common->skc_num != bpf_ntohs(message->tuple.destination_port) || common->skc_dport != message->tuple.source_port)
		return SHORT_CIRCUIT_NO_PEER;
	switch (socket_mode(sock)) {
	case SOCKET_BLOCKING:
		return SHORT_CIRCUIT_BLOCKING;
	case SOCKET_ORPHAN:
		return SHORT_CIRCUIT_NO_PEER;
	default:
		break;
	}
	if (socket_has_layer(sock))
		return SHORT_CIRCUIT_LAYER;
	if (sock->sk_receive_queue.qlen)
		return SHORT_CIRCUIT_UNREAD;
	if (sock->sk_rcvlowat > 1)
		return SHORT_CIRCUIT_LOW_WATER;
	psock = kernel_psock(sock);
	if (!psock)
		return SHORT_CIRCUIT_NO_PEER;
	waiting = psock->msg_tot_len;
	if (waiting + message->size > short_circuit_queue_bytes)
		return SHORT_CIRCUIT_QUEUE_BYTES;
	if (waiting_messages(message->own, waiting) >= short_circuit_queue_messages)
		return SHORT_CIRCUIT_QUEUE_MESSAGES;
	return SHORT_CIRCUIT_TAKEN;
}

static __always_inline enum short_circuit_cause own_gates(const struct sock *sock)
{
	const struct tcp_sock *tcp = kernel_tcp_sock(sock);

	if (tcp->snd_una != tcp->write_seq)
		return SHORT_CIRCUIT_UNACKNOWLEDGED;
	if (socket_has_layer(sock))
		return SHORT_CIRCUIT_LAYER;
	if (socket_is_zerocopy(sock))
		return SHORT_CIRCUIT_ZEROCOPY;
	return socket_mode(sock) == SOCKET_BLOCKING ? SHORT_CIRCUIT_BLOCKING : SHORT_CIRCUIT_TAKEN;
}

/* Decided anew, if something was revoked since. */
static __always_inline enum short_circuit_cause epoch_gate(const struct message *message)
{
	__u32 epoch = short_circuit_epoch_now();

	if (message->own->epoch == epoch || message->connection->flags & SHORT_CIRCUIT_IS_TEST)
		return SHORT_CIRCUIT_TAKEN;
	switch (short_circuit_verdict(&message->tuple, message->own->netns_cookie, message->peer->netns_cookie)) {
	case SHORT_CIRCUIT_ELIGIBLE:
		message->own->epoch = epoch;
		return SHORT_CIRCUIT_TAKEN;
	case SHORT_CIRCUIT_DROPPED:
		return SHORT_CIRCUIT_REFUSED;
	default:
		return SHORT_CIRCUIT_INELIGIBLE;
	}
}

static __always_inline enum short_circuit_cause gates(const struct message *message, const struct sock *sock)
{
	__u32 flags = message->connection->flags;
	enum short_circuit_cause cause = epoch_gate(message);

	if (cause)
		return cause;
	if (!short_circuit_is_on() && !(flags & SHORT_CIRCUIT_IS_TEST))
		return SHORT_CIRCUIT_SWITCHED_OFF;
	if (flags & SHORT_CIRCUIT_IS_LEAVING) {
		/* Who set the flag says why in the next moment. */
		cause = message->connection->leaves;
		return cause ? cause : SHORT_CIRCUIT_ASKED;
	}
	if (flags & SHORT_CIRCUIT_IS_JOINING || !message->peer->socket)
		return SHORT_CIRCUIT_JOINING;
	cause = own_gates(sock);
	return cause ? cause : peer_gates(message);
}

/* How often this end found the other's queue full. */
static __always_inline __u64 times_full(const struct short_circuit_end *own)
{
	return (__u64)own->causes[SHORT_CIRCUIT_QUEUE_BYTES] + own->causes[SHORT_CIRCUIT_QUEUE_MESSAGES];
}

/* Each time that its queue is full, TCP has to be read to the end before anything is handed over again, and TCP is half as fast
 * for a socket that is in a map. So such a stream leaves at once, and is looked at again after a pause.
 */
static __always_inline bool is_full_often(const struct short_circuit_end *own, enum short_circuit_cause cause)
{
	return is_full(cause) && times_full(own) - own->period_full >= FULL_OFTEN &&
	       own->passed_messages - own->period_passed > 2 * (own->messages - own->period_messages);
}

/* Whether a stream gains by not being on TCP; now and then. */
static __always_inline enum short_circuit_cause profit(const struct message *message, __u64 now_ns)
{
	struct short_circuit_end *own = message->own;
	__u64 taken = own->messages - own->period_messages, passed = own->passed_messages - own->period_passed;
	__u64 answers = message->peer->messages + message->peer->passed_messages - own->period_answers;
	__u64 bytes = own->bytes - own->period_bytes;
	enum short_circuit_cause cause = SHORT_CIRCUIT_TAKEN;

	if (taken + passed >= PERIOD_MESSAGES && passed > taken)
		cause = SHORT_CIRCUIT_STAYS_ON_TCP;
	else if (taken >= ONE_WAY_MESSAGES && answers < taken / 8 && bytes >= taken * SMALL_FIRST &&
		 bytes <= taken * SMALL_LAST)
		cause = SHORT_CIRCUIT_SMALL_ONE_WAY;
	own->period_ns = now_ns;
	own->period_messages = own->messages;
	own->period_passed = own->passed_messages;
	own->period_full = times_full(own);
	own->period_bytes = own->bytes;
	own->period_answers = message->peer->messages + message->peer->passed_messages;
	return cause;
}

/* `cause`: of this message. What says nothing of the stream does not count: a period begins behind it. */
static __always_inline void look_at_profit(struct message *message, enum short_circuit_cause cause)
{
	struct short_circuit_end *own = message->own;
	bool begins = !own->period_ns;
	__u64 now_ns;

	if (cause == SHORT_CIRCUIT_JOINING || cause == SHORT_CIRCUIT_SWITCHED_OFF) {
		own->period_ns = 0;
		return;
	}
	if ((own->messages + own->passed_messages) % PERIOD_MESSAGES)
		return;
	now_ns = bpf_ktime_get_coarse_ns();
	if (!begins && now_ns - own->period_ns < short_circuit_period_ns)
		return;
	cause = profit(message, now_ns);
	if (cause && !begins)
		leave(message, cause);
}

static __always_inline void count_taken(struct short_circuit_end *own, __u32 size)
{
	own->bytes += size;
	own->messages++;
	if (own->messages % MARK_MESSAGES == 0)
		own->marks[own->messages / MARK_MESSAGES % SHORT_CIRCUIT_MARKS] = own->bytes;
}

static __always_inline void count_passed(struct short_circuit_end *own, __u32 size, enum short_circuit_cause cause)
{
	own->passed_bytes += size;
	own->passed_messages++;
	if (cause < SHORT_CIRCUIT_CAUSES)
		own->causes[cause]++;
}

/* A socket whose message was refused once has all others refused by the kernel, which does not ask again (tcp_bpf_send_verdict
 * keeps the verdict): out of the map, TC drops what it sends, for as long as it is to be dropped.
 */
static __always_inline bool is_for_good(enum short_circuit_cause cause)
{
	return cause == SHORT_CIRCUIT_BLOCKING || cause == SHORT_CIRCUIT_LAYER || cause == SHORT_CIRCUIT_INELIGIBLE ||
	       cause == SHORT_CIRCUIT_REFUSED;
}
