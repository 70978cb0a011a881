/* Published ports for which this node asks in its own name: destination and source are translated, and the replies come
 * to its ingress address. The backend does not see the client's address. Two cannot do without:
 *
 * A backend on an IPVS node. Such a node's bridge delivers by MAC, and the task's stack would drop a packet for this
 * node's address.
 *
 * A task that asks its own node. Its backend may be on a network with it, and would answer there, from an address that
 * the task never asked. */
#ifndef MESHNET_MASQUERADE_H
#define MESHNET_MASQUERADE_H

#include "quote.h"
#include "service.h"

/* Source ports of such connections: above the range that the node's own connections use by default. */
#define FIRST_NODE_PORT 61000
#define NODE_PORTS (65536 - FIRST_NODE_PORT)
#define NODE_PORT_TRIES 8

inlined void ingress_key_of(struct ingress_key *key, const struct packet *p)
{
	key->client = p->source;
	key->address = p->to.ip;
	key->client_port = p->source_port;
	key->port = p->destination_port;
	key->protocol = p->protocol;
}

/* Whether the connection that has a place of `masquerades` is over, or forgotten where it was opened. */
inlined bool is_over(const struct masquerade *entry, const struct masquerade_key *place)
{
	struct ingress_key key = {
		.client = entry->client,
		.address = entry->address,
		.client_port = entry->client_port,
		.port = entry->port,
		.protocol = place->protocol,
	};
	const struct ingress_flow *flow = bpf_map_lookup_elem(&ingress_flows, &key);

	return !flow || flow->flags & FLOW_CLOSING || flow->node_port != place->node_port;
}

/* Enters a connection under a source port that is free; if some tries found none, one whose connection is over will
 * do, and for datagrams any. Returns whether it was entered. */
inlined bool take_port(const struct masquerade_key *key, const struct masquerade *entry, int tried)
{
	const struct masquerade *taken;

	if (!bpf_map_update_elem(&masquerades, key, entry, BPF_NOEXIST))
		return true;
	if (tried < NODE_PORT_TRIES / 2)
		return false;
	taken = bpf_map_lookup_elem(&masquerades, key);
	if (taken && !is_over(taken, key) && (key->protocol == IPPROTO_TCP || tried < NODE_PORT_TRIES - 1))
		return false;
	return !bpf_map_update_elem(&masquerades, key, entry, BPF_ANY);
}

/* A source port for p's connection to a backend, entered in both tables. Returns 0 or a drop. */
verified_once int masquerade_open(const struct packet *p, const struct address *backend, __u32 backend_port)
{
	struct masquerade entry = {};
	struct masquerade_key key = {};
	struct ingress_flow *flow;
	struct ingress_key from = {};

	if (!p || !backend)
		return DROP(FLOW_TABLE);
	ingress_key_of(&from, p);
	flow = bpf_map_lookup_elem(&ingress_flows, &from);
	if (!flow)
		return DROP(FLOW_TABLE);
	entry.client = p->source;
	entry.address = p->to.ip;
	entry.client_port = p->source_port;
	entry.port = p->destination_port;
	entry.vni = p->to.vni;
	key.backend = *backend;
	key.backend_port = backend_port;
	key.protocol = p->protocol;
	for (int i = 0; i < NODE_PORT_TRIES; i++) {
		key.node_port = bpf_htons(FIRST_NODE_PORT + bpf_get_prandom_u32() % NODE_PORTS);
		if (!take_port(&key, &entry, i))
			continue;
		flow->node_port = key.node_port;
		count_event(EVENT_MASQUERADED_CONNECTION);
		return 0;
	}
	return DROP(FLOW_COLLISION);
}

/* A request, in this node's name. */
inlined int ask(struct __sk_buff *skb, struct packet *p, const struct config *config, const struct address *backend,
		const struct endpoint *endpoint, __be16 backend_port)
{
	struct ingress_key key = {};
	struct ingress_flow *flow;
	struct address own = config->ingress_address;
	__be16 node_port;
	__u16 from[3];
	int drop;

	if (no_address(&own))
		return DROP(UNSUPPORTED);
	ingress_key_of(&key, p);
	flow = bpf_map_lookup_elem(&ingress_flows, &key);
	if (!flow)
		return DROP(FLOW_TABLE);
	if (!flow->node_port) {
		drop = masquerade_open(p, backend, backend_port);
		if (drop)
			return drop;
	}
	node_port = flow->node_port;
	if (translate(skb, p, DESTINATION, backend, backend_port) || translate(skb, p, SOURCE, &own, node_port))
		return DROP(HELPER);
	mac_of(from, &own);
	p->to.vni = config->ingress_vni;
	return deliver(skb, p, config, endpoint, from, config->ingress_mtu);
}

/* Whose question this node asked from a port of its own, if it did. */
inlined const struct masquerade *asker(const struct address *backend, __be16 backend_port, __be16 node_port,
				       __u8 protocol)
{
	struct masquerade_key key = {
		.backend = *backend,
		.backend_port = backend_port,
		.node_port = node_port,
		.protocol = protocol,
	};

	return bpf_map_lookup_elem(&masquerades, &key);
}

/* What came for the node's ingress address and has the asker's again: to a task of this node, or to the underlay. */
inlined int to_asker(struct __sk_buff *skb, const struct packet *p, const struct config *config, __u32 vni)
{
	struct endpoint_key client = { .ip = p->to.ip, .vni = vni };
	const struct endpoint *task;

	if (!vni)
		return to_wire(skb, p, config);
	task = bpf_map_lookup_elem(&endpoints, &client);
	return task && task->kind == ENDPOINT_LOCAL ? to_task(skb, p, config, task) : DROP(UNKNOWN_ENDPOINT);
}

/* An ICMP error about what this node asked for another: that one gets it, about what it sent. */
separate int error_to_asker(struct __sk_buff *skb, struct packet *p, const struct config *config)
{
	const struct masquerade *found;
	struct masquerade behind;
	struct quote quote;

	if (!p || !config)
		return DROP(NO_CONFIG);
	if (!error_about(skb, 0, p, &quote) || !same_address(&quote.source, &p->to.ip))
		return NO_REPLY;
	found = asker(&quote.destination, quote.destination_port, quote.source_port, quote.protocol);
	if (!found)
		return NO_REPLY;
	behind = *found;
	if (translate_quote(skb, &quote, DESTINATION, &behind.address, behind.port) ||
	    translate_quote(skb, &quote, SOURCE, &behind.client, behind.client_port) ||
	    (same_address(&p->source, &quote.destination) && translate(skb, p, SOURCE, &behind.address, 0)) ||
	    translate(skb, p, DESTINATION, &behind.client, 0))
		return DROP(HELPER);
	count_event(EVENT_ICMP_TRANSLATED);
	return to_asker(skb, p, config, behind.vni);
}

separate int answer_to_asker(struct __sk_buff *skb, struct packet *p, const struct config *config)
{
	const struct masquerade *found;
	struct masquerade behind;

	if (!p || !config)
		return DROP(NO_CONFIG);
	if (p->fragment != WHOLE && !fragment_ports(p))
		return NO_REPLY;
	found = asker(&p->source, p->source_port, p->destination_port, p->protocol);
	if (!found)
		return NO_REPLY;
	behind = *found;
	if (translate(skb, p, SOURCE, &behind.address, behind.port) ||
	    translate(skb, p, DESTINATION, &behind.client, behind.client_port))
		return DROP(HELPER);
	return to_asker(skb, p, config, behind.vni);
}

/* What came for the node's own ingress address, if it is the reply to what this node asked for another. */
inlined int reply_to_asker(struct __sk_buff *skb, struct packet *p, const struct config *config)
{
	return has_ports(p) ? answer_to_asker(skb, p, config) : error_to_asker(skb, p, config);
}

#endif
