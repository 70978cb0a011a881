/* Published ports: any node takes the packet, one task serves it, the client's address is kept both ways.
 *
 * The node that a packet came to (ingress node) picks a backend and keeps that in `ingress_flows`. To another node the
 * packet goes unchanged, in the ingress network's VNI: the inner destination MAC names the backend. The backend's node
 * translates, and keeps what it was in `backend_flows`, from which the reply gets the address and port that the client
 * used. The reply goes to the client from there, or back through the ingress node: MAC 02:42:00:00:00:00. */
#ifndef MESHNET_PUBLISHED_H
#define MESHNET_PUBLISHED_H

#include "masquerade.h"
#include "quote.h"

#define MOVE_TRIES 8

/* The inner destination MAC of a reply on its way back to the ingress node. */
inlined void mac_of_return(__u16 *mac)
{
	mac[0] = bpf_htons(0x0242);
	mac[1] = 0;
	mac[2] = 0;
}

/* A reply that has its original address back: to the client, or to the ingress node `node` that took the request. */
inlined int to_client(struct __sk_buff *skb, const struct packet *p, const struct config *config,
		      const struct address *node, const void *from)
{
	__u16 mac[3];

	if (config->flags & CONFIG_DIRECT_RETURN || no_address(node))
		return to_wire(skb, p, config);
	mac_of_return(mac);
	return to_node(skb, p, config, node, mac, from);
}

/* Backend's node -------------------------------------------------------------------------------------------------- */

inlined bool same_original(const struct backend_flow *flow, const struct packet *p)
{
	return flow->client_port == p->source_port && flow->port == p->destination_port &&
	       same_address(&flow->address, &p->to.ip);
}

/* Gives p's connection another client port, since the tuple in `key` is another's: both may be alive, or one in
 * TIME_WAIT, so an entry is never overwritten. The port ends up in `key`. Returns 0 or a drop. */
inlined int move(struct backend_flow_key *key, const struct backend_flow *entry, const struct moved_key *original)
{
	for (int i = 0; i < MOVE_TRIES; i++) {
		key->client_port = bpf_htons(1024 + bpf_get_prandom_u32() % 64512);
		if (bpf_map_update_elem(&backend_flows, key, entry, BPF_NOEXIST))
			continue;
		if (bpf_map_update_elem(&moved, original, &key->client_port, BPF_ANY)) {
			bpf_map_delete_elem(&backend_flows, key);
			return DROP(FLOW_TABLE);
		}
		count_event(EVENT_MOVED_CONNECTION);
		return 0;
	}
	return DROP(FLOW_COLLISION);
}

/* Finds or makes the entry of a connection that `key` does not find as it is: it may have been moved, be new, or have
 * been forgotten. Returns 0 or a drop; key->client_port is then what the task sees. */
inlined int serve_enter(const struct packet *p, struct backend_flow_key *key, const struct address *node)
{
	struct moved_key original = {
		.task = key->task,
		.client = key->client,
		.address = p->to.ip,
		.client_port = p->source_port,
		.port = p->destination_port,
		.protocol = p->protocol,
	};
	struct backend_flow entry = {
		.address = p->to.ip,
		.node = *node,
		.port = p->destination_port,
		.client_port = p->source_port,
	};
	__be16 *port = bpf_map_lookup_elem(&moved, &original);
	struct backend_flow *flow;

	if (port)
		key->client_port = *port;
	flow = bpf_map_lookup_elem(&backend_flows, key);
	if (flow && same_original(flow, p))
		return 0;
	count_event(EVENT_SERVED_CONNECTION);
	if (!flow && !bpf_map_update_elem(&backend_flows, key, &entry, BPF_NOEXIST))
		return 0;
	flow = bpf_map_lookup_elem(&backend_flows, key);
	if (!flow)
		return DROP(FLOW_TABLE);
	if (same_original(flow, p))
		return 0; /* another CPU was faster */
	return move(key, &entry, &original);
}

verified_once int serve_open(const struct packet *p, struct backend_flow_key *key, const struct address *node)
{
	struct backend_flow_key mine;
	int drop;

	if (!p || !key || !node)
		return DROP(FLOW_TABLE);
	mine = *key;
	drop = serve_enter(p, &mine, node);
	key->client_port = mine.client_port;
	return drop;
}

/* Into the task that was chosen for a published port. `node` is where the packet came to, zero for this node. */
inlined int serve(struct __sk_buff *skb, struct packet *p, const struct config *config, const struct service *service,
		  const struct address *backend, const struct endpoint *task, const struct address *node)
{
	struct backend_flow_key key = {
		.task = *backend,
		.client = p->source,
		.task_port = service->target_port,
		.client_port = p->source_port,
		.protocol = p->protocol,
	};
	struct backend_flow *flow = bpf_map_lookup_elem(&backend_flows, &key);
	int drop;

	if (unlikely(!flow || !same_original(flow, p))) {
		drop = serve_open(p, &key, node);
		if (drop)
			return drop;
	} else if (unlikely(!same_address(&flow->node, node))) {
		flow->node = *node;
	}
	if (translate(skb, p, DESTINATION, backend, key.task_port))
		return DROP(HELPER);
	if (unlikely(key.client_port != p->source_port) && translate(skb, p, SOURCE, &key.client, key.client_port))
		return DROP(HELPER);
	return to_task(skb, p, config, task);
}

/* The ports at the task and of the client, as the task knows them, of the connection whose reply an ICMP error is
 * about. Returns 0 or a drop. */
verified_once int ports_of_served(const struct quote *quote, const struct address *task, struct ports *ports)
{
	struct backend_flow_key key = {};
	struct published_key port = {};
	struct moved_key original = {};
	const struct service *service;
	__be16 *elsewhere;

	if (!quote || !task || !ports)
		return DROP(UNSUPPORTED);
	port.port = quote->source_port;
	port.protocol = quote->protocol;
	service = bpf_map_lookup_elem(&published, &port);
	if (!service)
		return DROP(UNPUBLISHED);
	key.task = original.task = *task;
	key.client = original.client = quote->destination;
	key.protocol = original.protocol = quote->protocol;
	original.address = quote->source;
	original.client_port = quote->destination_port;
	original.port = quote->source_port;
	elsewhere = bpf_map_lookup_elem(&moved, &original);
	key.task_port = ports->source = service->target_port;
	key.client_port = ports->destination = elsewhere ? *elsewhere : quote->destination_port;
	return bpf_map_lookup_elem(&backend_flows, &key) ? 0 : DROP(NO_FLOW);
}

/* An ICMP error about a reply of a published port, to the address that the reply had: it goes to the task, as one about
 * what the task sent. */
separate int serve_error(struct __sk_buff *skb, struct packet *p, const struct config *config,
			 const struct address *backend, const struct endpoint *task)
{
	struct ports ports = {};
	struct quote quote = {};
	int drop;

	if (!error_about(skb, 0, p, &quote) || !same_address(&quote.source, &p->to.ip))
		return DROP(UNSUPPORTED);
	drop = ports_of_served(&quote, backend, &ports);
	if (drop)
		return drop;
	if (translate_quote(skb, &quote, SOURCE, backend, ports.source) ||
	    translate_quote(skb, &quote, DESTINATION, &quote.destination, ports.destination) ||
	    translate(skb, p, DESTINATION, backend, 0))
		return DROP(HELPER);
	count_event(EVENT_ICMP_TRANSLATED);
	return to_task(skb, p, config, task);
}

/* An ICMP error of a task about a request to a published port: for the client it is about what the client sent. */
separate int error_of_task(struct __sk_buff *skb, struct packet *p, const struct config *config)
{
	struct backend_flow_key key = { .task = p->source, .client = p->to.ip };
	struct backend_flow *flow;
	struct address address, node;
	struct quote quote;
	__be16 client_port, port;
	__u16 from[3];

	if (!error_about(skb, 0, p, &quote) || !same_address(&quote.source, &p->to.ip) ||
	    !same_address(&quote.destination, &p->source))
		return NO_REPLY;
	key.task_port = quote.destination_port;
	key.client_port = quote.source_port;
	key.protocol = quote.protocol;
	flow = bpf_map_lookup_elem(&backend_flows, &key);
	if (!flow)
		return NO_REPLY;
	address = flow->address;
	node = flow->node;
	client_port = flow->client_port;
	port = flow->port;
	mac_of(from, &p->source);
	if (translate_quote(skb, &quote, DESTINATION, &address, port) ||
	    translate_quote(skb, &quote, SOURCE, &quote.source, client_port) || translate(skb, p, SOURCE, &address, 0))
		return DROP(HELPER);
	count_event(EVENT_ICMP_TRANSLATED);
	return to_client(skb, p, config, &node, from);
}

/* What a task on the ingress network sends, if it is a reply of a published port. */
inlined int published_reply(struct __sk_buff *skb, struct packet *p, const struct config *config)
{
	struct backend_flow_key key = { .task = p->source, .client = p->to.ip, .protocol = p->protocol };
	struct backend_flow *flow;
	struct address address, node;
	__be16 client_port;
	__u16 from[3];

	if (!has_ports(p))
		return error_of_task(skb, p, config);
	if (unlikely(p->fragment != WHOLE) && !fragment_ports(p))
		return NO_REPLY;
	key.task_port = p->source_port;
	key.client_port = p->destination_port;
	flow = bpf_map_lookup_elem(&backend_flows, &key);
	if (!flow)
		return NO_REPLY;
	address = flow->address;
	node = flow->node;
	client_port = flow->client_port;
	mac_of(from, &p->source);
	if (translate(skb, p, SOURCE, &address, flow->port))
		return DROP(HELPER);
	if (unlikely(client_port != p->destination_port) && translate(skb, p, DESTINATION, &key.client, client_port))
		return DROP(HELPER);
	return to_client(skb, p, config, &node, from);
}

/* Ingress node ---------------------------------------------------------------------------------------------------- */

/* Picks a backend for a new connection and enters it. Returns 0 or a drop. */
verified_once int ingress_open(const struct packet *p, struct endpoint_key *backend)
{
	struct published_key port = {};
	struct endpoint_key picked = {};
	struct ingress_flow entry = {};
	struct ingress_key key = {};
	int result = DROP(NO_BACKEND);

	if (!p || !backend)
		return result;
	ingress_key_of(&key, p);
	port.port = p->destination_port;
	port.protocol = p->protocol;
	for (int i = 0; i < 2; i++) { /* once more: the set may have been exchanged between the two lookups */
		const struct service *service = bpf_map_lookup_elem(&published, &port);

		if (!service)
			return DROP(UNPUBLISHED);
		result = pick(service, &picked);
		if (!result || result == DROP(NO_BACKEND))
			break;
	}
	if (result)
		return result;
	*backend = picked;
	entry.backend = picked.ip;
	if (bpf_map_update_elem(&ingress_flows, &key, &entry, BPF_ANY))
		return DROP(FLOW_TABLE);
	count_event(EVENT_PUBLISHED_CONNECTION);
	return 0;
}

/* The backend of a packet to a published port, in `backend`, and its endpoint in `found`. Returns 0, NO_REPLY if the
 * packet is not for this node, or a drop. */
inlined int ingress_backend(const struct packet *p, struct endpoint_key *backend, struct endpoint **found)
{
	struct ingress_key key = {};
	struct ingress_flow *flow;
	int result;

	ingress_key_of(&key, p);
	flow = bpf_map_lookup_elem(&ingress_flows, &key);
	if (likely(flow && !starts_anew(p, flow->flags))) {
		follow(p, &flow->flags);
		backend->ip = flow->backend;
		*found = bpf_map_lookup_elem(&endpoints, backend);
		if (likely(kept(*found, p)))
			return 0;
		if (!opens(p))
			return *found ? DROP(REMOVED_BACKEND) : DROP(UNKNOWN_BACKEND);
		count_event(EVENT_REPICKED);
	} else if (!flow) {
		/* In the middle of a connection: the stack knows whether it is one of its own (a task's, that it
		 * masquerades behind this port), and answers with RST if it is not. */
		if (!opens(p) || !bpf_map_lookup_elem(&addresses, &p->to.ip))
			return NO_REPLY;
	}
	result = ingress_open(p, backend);
	if (result)
		return result;
	*found = bpf_map_lookup_elem(&endpoints, backend);
	return reachable(*found) ? 0 : DROP(UNKNOWN_BACKEND);
}

/* Answers a client whose packet has no backend, as the node would. */
inlined int ingress_refuse(struct __sk_buff *skb, struct packet *p, int drop)
{
	int verdict;

	if (drop == DROP(NO_BACKEND))
		return refuse(skb, p);
	if (p->protocol != IPPROTO_TCP || drop != DROP(REMOVED_BACKEND))
		return drop;
	verdict = reset(skb, p, -drop);
	return verdict ? verdict : back(skb);
}

/* The backend whose connection an ICMP error to this node is about. Returns whether there is one. */
separate bool backend_of_error(struct __sk_buff *skb, const struct packet *p, struct address *backend)
{
	struct ingress_key key = {};
	struct ingress_flow *flow;
	struct quote quote;

	if (!error_about(skb, 0, p, &quote) || !same_address(&quote.source, &p->to.ip))
		return false;
	key.client = quote.destination;
	key.address = quote.source;
	key.client_port = quote.destination_port;
	key.port = quote.source_port;
	key.protocol = quote.protocol;
	flow = bpf_map_lookup_elem(&ingress_flows, &key);
	if (flow)
		*backend = flow->backend;
	return flow;
}

/* An ICMP error to this node that is about a published port's connection: it goes the way of the client's packets. */
inlined int error_from_outside(struct __sk_buff *skb, struct packet *p, const struct config *config)
{
	struct endpoint_key backend = { .vni = config->ingress_vni };
	const struct endpoint *found;
	__u16 from[3];

	if (!backend_of_error(skb, p, &backend.ip))
		return TC_ACT_OK;
	found = bpf_map_lookup_elem(&endpoints, &backend);
	if (!reachable(found) || found->flags & ENDPOINT_IPVS)
		return TC_ACT_OK;
	if (found->kind == ENDPOINT_LOCAL)
		return serve_error(skb, p, config, &backend.ip, found);
	p->to.vni = config->ingress_vni;
	mac_of(from, &config->ingress_address);
	return deliver(skb, p, config, found, from, config->ingress_mtu);
}

/* A packet for one of this node's addresses, from the underlay or from a task of this node: for a published port it goes
 * to a backend, all else is the node's own. */
inlined int from_client(struct __sk_buff *skb, struct packet *p, const struct config *config, bool from_task)
{
	struct endpoint_key backend = { .vni = config->ingress_vni };
	const struct address here = {};
	struct endpoint *found = NULL;
	struct published_key port = {};
	const struct service *service;
	__u16 from[3];
	int result;

	if (!has_ports(p))
		return from_task ? TC_ACT_OK : error_from_outside(skb, p, config);
	if (unlikely(p->fragment == LATER) && !fragment_ports(p))
		return TC_ACT_OK;
	port.port = p->destination_port;
	port.protocol = p->protocol;
	service = bpf_map_lookup_elem(&published, &port);
	if (!service)
		return TC_ACT_OK;
	if (unlikely(p->fragment == FIRST) && !fragment_ports(p))
		return DROP(FLOW_TABLE);
	result = ingress_backend(p, &backend, &found);
	if (result == NO_REPLY)
		return TC_ACT_OK;
	if (unlikely(result || !found))
		return ingress_refuse(skb, p, result);
	if (p->dont_fragment && larger_than(skb, p, config->ingress_mtu))
		return frag_needed(skb, p, config->ingress_mtu);
	if (from_task || unlikely(found->flags & ENDPOINT_IPVS))
		return ask(skb, p, config, &backend.ip, found, service->target_port);
	if (found->kind == ENDPOINT_LOCAL)
		return serve(skb, p, config, service, &backend.ip, found, &here);
	p->to.vni = config->ingress_vni;
	mac_of(from, &config->ingress_address);
	return deliver(skb, p, config, found, from, config->ingress_mtu);
}

#endif
