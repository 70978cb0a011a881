/* The last step of every path: into a task, to another node, or back to who must hear of it. */
#ifndef MESHNET_DELIVER_H
#define MESHNET_DELIVER_H

#include "answer.h"

/* Where a program asks whether a packet is the reply of a published port: it is none. */
#define NO_REPLY (TC_ACT_VALUE_MAX + 1)

/* What a dropped packet carries in its mark, besides the reason: traces of drops read it there. */
#define DROP_MARK 0x6d640000

/* The end of every program: counts drops. Verdicts below zero are reasons. */
inlined int finish(struct __sk_buff *skb, int verdict)
{
	if (likely(verdict >= 0))
		return verdict;
	count_drop(-verdict);
	skb->mark = DROP_MARK | -verdict;
	return TC_ACT_SHOT;
}

/* What only nodes say to one another. */
inlined bool node_port(const struct packet *p, const struct config *config)
{
	__u32 port = bpf_ntohs(p->destination_port);

	if (!has_ports(p))
		return false;
	if (p->protocol == IPPROTO_UDP && p->destination_port == config->vxlan_port)
		return true;
	return port == 7946 || (port == 2377 && p->protocol == IPPROTO_TCP);
}

/* Into a task of this node. The frame was for another MAC as far as the kernel knows, so its type is set first.
 * redirect_peer refuses a peer in the same namespace: the node's own interface gets the packet the ordinary way,
 * which drops silently what is larger than its MTU. */
inlined int to_task(struct __sk_buff *skb, const struct packet *p, const struct config *config,
		    const struct endpoint *task)
{
	if (write_macs(skb, task->mac, &p->source))
		return DROP(MALFORMED);
	if (unlikely(task->flags & ENDPOINT_NODE_LOCAL)) {
		if (node_port(p, config))
			return DROP(NODE_PORT);
		if (larger_than(skb, p, config->ingress_mtu))
			return DROP(TOO_BIG);
		return bpf_redirect(task->ifindex, 0);
	}
	bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(task->ifindex, 0);
}

/* To an endpoint that is LOCAL or REMOTE; `from` is the inner source MAC towards another node. What is too big for
 * the tunnel and may be cut goes through the kernel; what may not was answered before. */
inlined int deliver(struct __sk_buff *skb, const struct packet *p, const struct config *config,
		    const struct endpoint *endpoint, const void *from, __u32 mtu)
{
	if (endpoint->kind == ENDPOINT_LOCAL)
		return to_task(skb, p, config, endpoint);
	if (larger_than(skb, p, mtu)) {
		struct ethhdr *eth = frame(skb, sizeof(*eth));

		if (!eth)
			return DROP(MALFORMED);
		copy_mac(eth->h_dest, endpoint->mac);
		copy_mac(eth->h_source, from);
		return through_kernel(skb, config, p->to.vni, endpoint->via.word[3]);
	}
	return to_node(skb, p, config, &endpoint->via, endpoint->mac, from);
}

/* From one of the ingress node's addresses to the client, by the node's routes but not its stack, which would take
 * the source for martian. A client that is this node itself (it masquerades for a task) gets it from the underlay. */
inlined int to_wire(struct __sk_buff *skb, const struct packet *p, const struct config *config)
{
	struct ethhdr *eth;

	if (likely(!same_address(&p->to.ip, &config->address)))
		return to_underlay(config, p->to.ip.word[3]);
	eth = frame(skb, sizeof(*eth));
	if (!eth)
		return DROP(MALFORMED);
	copy_mac(eth->h_dest, config->underlay_mac);
	copy_mac(eth->h_source, config->underlay_mac);
	return bpf_redirect(config->underlay, BPF_F_INGRESS);
}

/* Whether an endpoint of this node refuses a packet: its task has left its service, and would be stopped in the middle
 * of what begins now. Who found it by name tries another address at once. */
inlined bool closed_to(const struct endpoint *task, const struct packet *p)
{
	return (task->flags & ENDPOINT_CLOSED) && p->protocol == IPPROTO_TCP && opens(p);
}

/* Whether an endpoint can be sent to. */
inlined bool reachable(const struct endpoint *endpoint)
{
	return endpoint && endpoint->kind <= ENDPOINT_REMOTE;
}

/* Whether a flow's packet goes to the flow's backend. Not if that is gone; nor does a SYN, which is repeated here, if it
 * leaves: a connection that began as a node died would otherwise wait for that node for ever. */
inlined bool kept(const struct endpoint *backend, const struct packet *p)
{
	if (!reachable(backend))
		return false;
	return likely(!(backend->flags & (ENDPOINT_CLOSED | ENDPOINT_LEAVING))) || p->protocol != IPPROTO_TCP || !opens(p);
}

#endif
