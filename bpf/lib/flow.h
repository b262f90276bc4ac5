/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The table of flows: one entry finds both directions, a translated flow has a second one (alias) under its translated side.
 *
 * A flow begins in `new_flows`, where the newest push out the oldest, and moves to `flows`, where nobody is pushed out, when
 * it was answered: TCP when the initiator has acknowledged the answer (who only sends from a false address never does), UDP
 * and echo with the first answer. Alias first, then the entry, so that what is in `flows` is complete.
 */
#pragma once

#include <linux/errno.h>
#include "lib/tuple.h"
#include "maps/drops.h"

/* The coarsest renewal that timeouts of seconds can stand. */
#define FLOW_RENEWAL_NS 1000000000ULL

#define FLOW_OVER	(FLOW_RESET | FLOW_FIN_INITIATOR | FLOW_FIN_RESPONDER)

/* How many flows one pod may have at once; 0: as many as the table holds. */
const volatile __u64 flow_quota = 0;

static __always_inline void count_pod_network(enum pod_network_event event)
{
	__u64 *counter = bpf_map_lookup_elem(&pod_network_events, &event);

	if (counter)
		*counter += 1;
}

/* Where a packet stands in a flow. Only the first two of a translated flow are still to be translated. */
enum flow_place {
	FLOW_PLACE_SENT,     /* as the initiator sends it: becomes `other` of the entry */
	FLOW_PLACE_ANSWERED, /* as the responder sends it, found by the alias: becomes the reverse of the alias's `other` */
	FLOW_PLACE_SENT_TRANSLATED,
	FLOW_PLACE_ANSWERED_TRANSLATED,
};

/* A packet's place in the tables. `key` and `entry` are what the packet itself is found by: of a packet on the translated
 * side the alias. Where there is no entry, only `key` and `reversed` hold.
 */
struct flow_view {
	struct tuple key;
	struct flow *entry;
	enum flow_place place;
	bool reversed; /* the packet's source is the destination of `key` */
	bool settled;  /* the entry is in `flows`, not in `new_flows` */
	__u8 pad[2];
};

/* The entry under a key, and in which of the two tables it is. */
static __always_inline struct flow *flow_lookup(const struct tuple *key, bool *settled)
{
	struct flow *entry = bpf_map_lookup_elem(&flows, key);

	*settled = entry;
	return entry ? entry : bpf_map_lookup_elem(&new_flows, key);
}

static __always_inline bool flow_place(struct flow_view *view)
{
	bool answers;

	if (!view->entry)
		return false;
	answers = view->reversed != !!(view->entry->flags & FLOW_REVERSED);
	if (view->entry->flags & FLOW_ALIAS)
		view->place = answers ? FLOW_PLACE_ANSWERED : FLOW_PLACE_SENT_TRANSLATED;
	else
		view->place = answers ? FLOW_PLACE_ANSWERED_TRANSLATED : FLOW_PLACE_SENT;
	return true;
}

/* Finds the flow of a packet that has a tuple. False: nobody knows it. */
static __always_inline bool flow_find(const struct tuple *tuple, struct flow_view *view)
{
	view->reversed = flow_key(tuple, &view->key);
	view->entry = flow_lookup(&view->key, &view->settled);
	return flow_place(view);
}

/* The same right after it was begun, when `view->key` is known: most likely it is among the new ones. */
static __always_inline bool flow_find_begun(struct flow_view *view)
{
	view->entry = bpf_map_lookup_elem(&new_flows, &view->key);
	view->settled = !view->entry;
	if (!view->entry)
		view->entry = bpf_map_lookup_elem(&flows, &view->key);
	return flow_place(view);
}

static __always_inline bool flow_is_from_initiator(const struct flow_view *view)
{
	return view->place == FLOW_PLACE_SENT || view->place == FLOW_PLACE_SENT_TRANSLATED;
}

/* What the packet is to become; false: nothing, it is as it shall be. */
static __always_inline bool flow_translation(const struct flow_view *view, struct tuple *other)
{
	if (view->place == FLOW_PLACE_ANSWERED)
		*other = tuple_reverse(&view->entry->other);
	else if (view->place == FLOW_PLACE_SENT && view->entry->flags & FLOW_TRANSLATED)
		*other = view->entry->other;
	else
		return false;
	return true;
}

/* One more flow of this owner; false: it has its quota. Zero owns as many as it likes. */
static __always_inline bool flow_charge(const struct address *owner)
{
	__u64 *count, one = 1;

	if (address_is_zero(owner))
		return true;
	count = bpf_map_lookup_elem(&pod_flows, owner);
	if (!count) {
		bpf_map_update_elem(&pod_flows, owner, &one, BPF_NOEXIST);
		return true;
	}
	if (flow_quota && *count >= flow_quota)
		return false;
	__sync_fetch_and_add(count, 1);
	return true;
}

/* Takes one back. Never below zero: pod_network_expire may have counted anew in between. */
static __always_inline void flow_uncharge(const struct address *owner)
{
	__u64 *count = bpf_map_lookup_elem(&pod_flows, owner);

	if (count && *count)
		__sync_fetch_and_add(count, -1);
}

/* Puts one entry into `new_flows` under a key, as `flow_key` says it of a tuple. False: there is one already. */
static __always_inline bool flow_insert_new(const struct tuple *key, bool reversed, struct flow *flow)
{
	flow->last_seen_ns = bpf_ktime_get_coarse_ns();
	flow->flags = (flow->flags & ~FLOW_REVERSED) | (reversed ? FLOW_REVERSED : 0);
	return !bpf_map_update_elem(&new_flows, key, flow, BPF_NOEXIST);
}

/* The same, and false also where there is one in `flows`. */
static __always_inline bool flow_insert_at(const struct tuple *key, bool reversed, struct flow *flow)
{
	return !bpf_map_lookup_elem(&flows, key) && flow_insert_new(key, reversed, flow);
}

/* Room for entries that are being made. NULL never happens: the map has that entry. */
static __always_inline struct flow_draft *flow_draft(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&flow_drafts, &only);
}

/* Whether a flow counts against its owner's quota. What others send to a pod counts only once it was answered: else anybody
 * who reaches it could keep it from beginning flows of its own. Until then it is in `new_flows`, which has a limit of its own.
 */
static __always_inline bool flow_is_charged(const struct flow *flow, bool settled)
{
	return settled || !(flow->flags & FLOW_FROM_OUTSIDE);
}

/* Begins a flow that is not translated; `flags` may have FLOW_VIA_STACK and FLOW_FROM_OUTSIDE. DROP_NONE also where another
 * CPU has just begun it.
 */
__weak __noinline enum drop_reason flow_begin(const struct tuple *tuple, const struct address *owner, __u32 flags)
{
	struct flow_draft *draft = flow_draft();
	bool reversed;

	if (!draft || !tuple || !owner)
		return DROP_FLOW_TABLE_FULL;
	draft->flow = (struct flow){};
	draft->flow.owner = *owner;
	draft->flow.flags = flags;
	if (flow_is_charged(&draft->flow, false) && !flow_charge(&draft->flow.owner)) {
		count_pod_network(POD_NETWORK_FLOWS_REFUSED);
		return DROP_FLOW_QUOTA;
	}
	reversed = flow_key(tuple, &draft->key);
	/* Who begins it did not find it. Where another CPU has settled the very same flow since, that entry is found first and
	 * this one times out.
	 */
	if (flow_insert_new(&draft->key, reversed, &draft->flow))
		count_pod_network(POD_NETWORK_FLOWS_CREATED);
	else if (flow_is_charged(&draft->flow, false))
		flow_uncharge(&draft->flow.owner);
	return DROP_NONE;
}

/* Removes an entry from wherever it is. */
static __always_inline void flow_remove(const struct tuple *key)
{
	bpf_map_delete_elem(&flows, key);
	bpf_map_delete_elem(&new_flows, key);
}

/* Whether `alias` is the second entry of this flow. The table of new flows may have pushed that out, and its place may have
 * been claimed for another flow since.
 */
static __always_inline bool flow_is_alias_of(const struct flow *alias, const struct tuple *key, const struct flow *entry)
{
	const struct tuple *sent = &alias->other;

	if (!(alias->flags & FLOW_ALIAS))
		return false;
	if (!(entry->flags & FLOW_REVERSED))
		return tuple_equal(sent, key);
	return address_equal(&sent->source, &key->destination) && address_equal(&sent->destination, &key->source) &&
	       sent->source_port == key->destination_port && sent->destination_port == key->source_port;
}

/* Removes the alias of a translated flow, if it is still there. `alias_key` is room for its key. */
static __always_inline void flow_remove_alias(const struct tuple *key, const struct flow *entry, struct tuple *alias_key)
{
	const struct flow *alias;
	bool settled;

	find_key(&entry->other, alias_key);
	alias = flow_lookup(alias_key, &settled);
	if (alias && flow_is_alias_of(alias, key, entry))
		flow_remove(alias_key);
}

/* Puts the alias of a translated flow (again) where the entry is not settled: the table of new flows may push out one of the
 * two. It says what the entry says, the other way round. True: it is there now, under the draft's `alias_key`; false: another
 * flow is, so this one has lost its translation.
 */
__weak __noinline int flow_restore_alias(const struct tuple *key, const struct flow *entry)
{
	struct flow_draft *draft = flow_draft();
	const struct flow *alias;
	bool settled, reversed;

	if (!key || !entry || !draft)
		return false;
	reversed = find_key(&entry->other, &draft->alias_key);
	alias = flow_lookup(&draft->alias_key, &settled);
	if (alias)
		return flow_is_alias_of(alias, key, entry);
	draft->alias = (struct flow){};
	draft->alias.owner = entry->owner;
	draft->alias.other = entry->flags & FLOW_REVERSED ? tuple_reverse(key) : *key;
	draft->alias.flags = FLOW_ALIAS;
	return flow_insert_at(&draft->alias_key, reversed, &draft->alias);
}

/* Moves one entry, which is in `new_flows`, to `flows`. False: no room. Another CPU may have moved it just now. */
static __always_inline bool flow_move(const struct tuple *key, const struct flow *entry)
{
	long result = bpf_map_update_elem(&flows, key, entry, BPF_NOEXIST);

	if (result && result != -EEXIST)
		return false;
	bpf_map_delete_elem(&new_flows, key);
	return true;
}

/* Moves a flow, and with it its alias, from `new_flows` to `flows`. False: no room, and nothing of it was moved. */
static __always_inline bool flow_move_both(const struct tuple *key, struct flow *entry)
{
	struct flow_draft *draft = flow_draft();
	struct flow *alias;

	if (!draft)
		return false;
	if (!(entry->flags & FLOW_TRANSLATED))
		return flow_move(key, entry);
	if (!flow_restore_alias(key, entry))
		return false;
	alias = bpf_map_lookup_elem(&new_flows, &draft->alias_key);
	if (alias && !flow_move(&draft->alias_key, alias))
		return false;
	if (flow_move(key, entry))
		return true;
	bpf_map_delete_elem(&flows, &draft->alias_key);
	return false;
}

/* A flow was answered. A reason: it stays where it is, and its packet does not go on. */
static __noinline enum drop_reason flow_settle(const struct tuple *key, struct flow *entry)
{
	bool charge = !flow_is_charged(entry, false);

	if (charge && !flow_charge(&entry->owner)) {
		count_pod_network(POD_NETWORK_FLOWS_REFUSED);
		return DROP_FLOW_QUOTA;
	}
	entry->flags |= FLOW_REPLIED;
	if (flow_move_both(key, entry))
		return DROP_NONE;
	if (charge)
		flow_uncharge(&entry->owner);
	return DROP_FLOW_TABLE_FULL;
}
