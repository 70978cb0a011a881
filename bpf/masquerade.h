/* Published ports whose backend is on an IPVS node: such a node's bridge delivers by MAC, and the task's stack would
 * drop a packet for this node's address. So this node asks in its own name: destination and source are translated, and
 * the replies come to its ingress address. The task does not see the client's address. */
#ifndef MESHNET_MASQUERADE_H
#define MESHNET_MASQUERADE_H

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

/* A free source port for p's connection to a backend, entered in both tables. Returns 0 or a drop. */
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
	key.backend = *backend;
	key.backend_port = backend_port;
	key.protocol = p->protocol;
	for (int i = 0; i < NODE_PORT_TRIES; i++) {
		key.node_port = bpf_htons(FIRST_NODE_PORT + bpf_get_prandom_u32() % NODE_PORTS);
		if (bpf_map_update_elem(&masquerades, &key, &entry, BPF_NOEXIST))
			continue;
		flow->node_port = key.node_port;
		count_event(EVENT_MASQUERADED_CONNECTION);
		return 0;
	}
	return DROP(FLOW_COLLISION);
}

/* A request for a backend behind IPVS. */
inlined int to_ipvs(struct __sk_buff *skb, struct packet *p, const struct config *config, const struct address *backend,
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

/* Whether p, which came for the node's own ingress address, is the reply of such a backend; `entry` is then whose. */
inlined bool is_masqueraded(struct packet *p, struct masquerade *entry)
{
	struct masquerade_key key = { .backend = p->source, .protocol = p->protocol };
	struct masquerade *found;

	if (!has_ports(p) || (p->fragment != WHOLE && !fragment_ports(p)))
		return false;
	key.backend_port = p->source_port;
	key.node_port = p->destination_port;
	found = bpf_map_lookup_elem(&masquerades, &key);
	if (found)
		*entry = *found;
	return found;
}

#endif
