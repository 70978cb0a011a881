/* A VIP, per packet: for sockets that the socket programs do not see.
 *
 * Only the client's node translates: destination VIP -> backend on the way out, source backend -> VIP on the way in.
 * One entry of `flows` serves both ways, since its key has neither VIP nor backend in it. Two connections of a client
 * that differ only in these share the key but for the slot. */
#ifndef MESHNET_VIP_H
#define MESHNET_VIP_H

#include "quote.h"
#include "service.h"

/* flow_open: the client has this very connection to this backend already, through another VIP. */
#define TAKEN 1

inlined __u32 *slots_of(const struct address *client)
{
	__u32 octet = client->word[3] >> 24;

	return bpf_map_lookup_elem(&flow_slots, &octet);
}

inlined void request_key(struct flow_key *key, const struct packet *p)
{
	key->client = p->source;
	key->vni = p->to.vni;
	key->client_port = p->source_port;
	key->port = p->destination_port;
	key->protocol = p->protocol;
	key->slot = 0;
	key->unused = 0;
}

inlined void reply_key(struct flow_key *key, const struct packet *p)
{
	key->client = p->to.ip;
	key->vni = p->to.vni;
	key->client_port = p->destination_port;
	key->port = p->source_port;
	key->protocol = p->protocol;
	key->slot = 0;
	key->unused = 0;
}

/* The entry with this VIP among the first `slots` of the key; key->slot says where. */
inlined struct flow *flow_by_vip(struct flow_key *key, const struct address *vip, __u32 slots)
{
	struct flow *flow;

	for (__u32 slot = 0; slot < FLOW_SLOTS && slot < slots; slot++) {
		key->slot = slot;
		flow = bpf_map_lookup_elem(&flows, key);
		if (flow && same_address(&flow->vip, vip))
			return flow;
	}
	return NULL;
}

inlined struct flow *flow_by_backend(struct flow_key *key, const struct address *backend, __u32 slots)
{
	struct flow *flow;

	for (__u32 slot = 0; slot < FLOW_SLOTS && slot < slots; slot++) {
		key->slot = slot;
		flow = bpf_map_lookup_elem(&flows, key);
		if (flow && same_address(&flow->backend, backend))
			return flow;
	}
	return NULL;
}

/* Enters a connection into the first slot that is free, closing, or its own VIP's; a datagram flow takes one of the
 * others' if it must. Returns 0, TAKEN, or a drop. */
verified_once int flow_open(const struct flow_key *which, const struct address *vip, const struct address *backend)
{
	__u32 place = FLOW_SLOTS, used, *slots;
	struct flow entry = {}, *flow;
	struct flow_key key;

	if (!which || !vip || !backend)
		return DROP(FLOW_TABLE);
	key = *which;
	entry.vip = *vip;
	entry.backend = *backend;
	slots = slots_of(&key.client);
	if (!slots)
		return DROP(FLOW_TABLE);
	used = *slots;
	for (__u32 slot = 0; slot < FLOW_SLOTS; slot++) {
		if (slot >= used) {
			if (place == FLOW_SLOTS)
				place = slot;
			break;
		}
		key.slot = slot;
		flow = bpf_map_lookup_elem(&flows, &key);
		if (flow && same_address(&flow->vip, vip)) {
			place = slot;
			break;
		}
		if (flow && !(flow->flags & FLOW_CLOSING)) {
			if (same_address(&flow->backend, backend))
				return TAKEN;
			continue;
		}
		if (place == FLOW_SLOTS)
			place = slot;
	}
	if (place == FLOW_SLOTS) {
		if (key.protocol == IPPROTO_TCP)
			return DROP(FLOW_COLLISION);
		place = bpf_get_prandom_u32() % FLOW_SLOTS;
	}
	key.slot = place;
	if (bpf_map_update_elem(&flows, &key, &entry, BPF_ANY))
		return DROP(FLOW_TABLE);
	if (used <= place)
		*slots = place + 1;
	return 0;
}

/* A backend that is its own client: replies go to the VIP too, with the ports changed over, so that way gets its own
 * entry. */
inlined int hairpin_open(const struct flow_key *key, const struct address *vip)
{
	struct flow_key reply = *key;

	if (key->port == key->client_port)
		return 0;
	reply.client_port = key->port;
	reply.port = key->client_port;
	return flow_open(&reply, vip, &key->client);
}

/* Picks a backend of the service at `service_vip` for a new connection of p to `to.ip`, and enters it.
 * `backend` is the answer. Returns 0 or a drop. */
verified_once int vip_open(const struct packet *p, const struct address *service_vip, struct endpoint_key *backend)
{
	struct endpoint_key picked = {};
	struct flow_key key;
	struct address vip;
	int result;

	if (!p || !service_vip || !backend)
		return DROP(FLOW_TABLE);
	vip = *service_vip;
	request_key(&key, p);
	for (int i = 0; i < PICK_TRIES; i++) {
		const struct service *service = bpf_map_lookup_elem(&services, &vip);

		if (!service || service->vni != p->to.vni)
			return DROP(NO_BACKEND);
		result = pick(service, &picked);
		if (result == DROP(NO_BACKEND) || (result && i))
			return result;
		if (result)
			continue; /* once more: the set may have been exchanged between the two lookups */
		*backend = picked;
		result = flow_open(&key, &p->to.ip, &picked.ip);
		if (!result && same_address(&picked.ip, &p->source)) {
			count_event(EVENT_HAIRPIN_CONNECTION);
			result = hairpin_open(&key, &p->to.ip);
		}
		if (!result)
			count_event(EVENT_VIP_CONNECTION);
		if (result != TAKEN)
			return result;
	}
	return DROP(FLOW_COLLISION);
}

/* The backend to send p to, in `backend`, and its endpoint in `found`. Returns 0 or a drop; the drop REMOVED_BACKEND,
 * NO_BACKEND and NO_FLOW are still to be answered. */
inlined int vip_backend(struct packet *p, const struct endpoint *vip, struct endpoint_key *backend,
			struct endpoint **found)
{
	const struct address *service_vip = vip->kind == ENDPOINT_VIP ? &p->to.ip : &vip->via;
	__u32 *slots = slots_of(&p->source);
	struct flow_key key;
	struct flow *flow;
	int result;

	request_key(&key, p);
	flow = slots ? flow_by_vip(&key, &p->to.ip, *slots) : NULL;
	if (likely(flow && !starts_anew(p, flow->flags))) {
		follow(p, &flow->flags);
		backend->ip = flow->backend;
		*found = bpf_map_lookup_elem(&endpoints, backend);
		if (likely(kept(*found, p)))
			return 0;
		if (!opens(p))
			return *found ? DROP(REMOVED_BACKEND) : DROP(UNKNOWN_BACKEND);
		count_event(EVENT_REPICKED);
	} else if (!flow && !opens(p)) {
		return DROP(NO_FLOW);
	}
	result = vip_open(p, service_vip, backend);
	if (result)
		return result;
	*found = bpf_map_lookup_elem(&endpoints, backend);
	return reachable(*found) ? 0 : DROP(UNKNOWN_BACKEND);
}

/* Answers what vip_backend refused, as the VIP would: RST or port unreachable; other drops stay what they are. */
inlined int vip_refuse(struct __sk_buff *skb, struct packet *p, int drop)
{
	int verdict;

	if (drop == DROP(NO_BACKEND))
		return refuse(skb, p);
	if (p->protocol != IPPROTO_TCP || (drop != DROP(REMOVED_BACKEND) && drop != DROP(NO_FLOW)))
		return drop;
	verdict = reset(skb, p, -drop);
	return verdict ? verdict : back(skb);
}

/* ICMP to a VIP or gateway: a ping is answered, nothing else is for it. */
inlined int ping(struct __sk_buff *skb, struct packet *p)
{
	if (p->protocol == IPPROTO_ICMP && (p->fragment == LATER || p->icmp_type == ICMP_ECHO))
		return ping_answer(skb, p);
	return DROP(UNSUPPORTED);
}

/* A packet from a task to a VIP, or to a removed address, which stands in for its service's VIP: connected UDP sockets
 * move on by themselves, TCP is told that its connection is gone. */
inlined int to_vip(struct __sk_buff *skb, struct packet *p, const struct config *config, const struct endpoint *vip,
		   const void *from, __u32 mtu)
{
	struct endpoint_key backend = { .vni = p->to.vni };
	struct endpoint *found = NULL;
	struct address client;
	int result;

	if (!has_ports(p))
		return vip->kind == ENDPOINT_VIP ? ping(skb, p) : DROP(REMOVED_BACKEND);
	if (unlikely(p->fragment != WHOLE) && !fragment_ports(p))
		return DROP(NO_PORTS);
	if (vip->kind == ENDPOINT_REMOVED && p->protocol == IPPROTO_TCP)
		return vip_refuse(skb, p, DROP(REMOVED_BACKEND));
	if (p->dont_fragment && larger_than(skb, p, mtu))
		return frag_needed(skb, p, mtu);
	result = vip_backend(p, vip, &backend, &found);
	if (unlikely(result || !found))
		return vip_refuse(skb, p, result);
	if (unlikely(same_address(&backend.ip, &p->source))) {
		client = p->to.ip;
		if (translate(skb, p, SOURCE, &client, 0))
			return DROP(HELPER);
	}
	if (translate(skb, p, DESTINATION, &backend.ip, 0))
		return DROP(HELPER);
	return deliver(skb, p, config, found, from, mtu);
}

/* An ICMP error for a client of this node: if it is about a packet that was translated to a VIP's backend, it becomes
 * one about the packet to the VIP. Returns 0 or a drop. */
separate int error_from_backend(struct __sk_buff *skb, struct packet *p, __u32 slots)
{
	struct flow_key key = { .client = p->to.ip, .vni = p->to.vni };
	struct quote quote;
	struct flow *flow;
	struct address vip;

	if (!error_about(skb, 0, p, &quote) || !same_address(&quote.source, &p->to.ip))
		return 0;
	key.client_port = quote.source_port;
	key.port = quote.destination_port;
	key.protocol = quote.protocol;
	flow = flow_by_backend(&key, &quote.destination, slots);
	if (!flow)
		return 0;
	vip = flow->vip;
	if (translate_quote(skb, &quote, DESTINATION, &vip, quote.destination_port))
		return DROP(HELPER);
	count_event(EVENT_ICMP_TRANSLATED);
	return same_address(&p->source, &quote.destination) ? translate(skb, p, SOURCE, &vip, 0) : 0;
}

/* A packet that is about to enter a task of this node: if it is the reply of a VIP's backend to this client, the VIP
 * answers. Returns 0 or a drop. */
inlined int from_backend(struct __sk_buff *skb, struct packet *p)
{
	__u32 *slots = slots_of(&p->to.ip);
	struct flow_key key;
	struct flow *flow;
	struct address vip;

	if (likely(!slots || !*slots))
		return 0;
	if (unlikely(!has_ports(p)))
		return error_from_backend(skb, p, *slots);
	if (unlikely(p->fragment != WHOLE) && !fragment_ports(p))
		return 0;
	reply_key(&key, p);
	flow = flow_by_backend(&key, &p->source, *slots);
	if (!flow)
		return 0;
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		flow->flags |= FLOW_CLOSING;
	vip = flow->vip;
	return translate(skb, p, SOURCE, &vip, 0);
}

/* A task opens a connection to an endpoint itself: what it had to that endpoint through a VIP with the same ports is
 * over, and must not claim the replies. */
inlined void forget(const struct packet *p)
{
	__u32 *slots = slots_of(&p->source);
	struct flow_key key;

	if (likely(!slots || !*slots) || !has_ports(p) || !opens(p) || p->fragment == LATER)
		return;
	request_key(&key, p);
	if (flow_by_backend(&key, &p->to.ip, *slots))
		bpf_map_delete_elem(&flows, &key);
}

#endif
