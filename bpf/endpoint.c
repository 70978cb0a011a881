/* What a task sends, at the node's end of its interface.
 *
 * It sends as itself or not at all. ARP is answered here. Everything else goes where its destination says: into a task
 * of this node, through a tunnel to another, to a VIP's backend, back to the client of a published port, or out. */
#include "published.h"
#include "vip.h"

char _license[] SEC("license") = "GPL";

inlined int answer_task_arp(struct __sk_buff *skb, const struct interface *interface)
{
	struct endpoint_key asked = { .vni = interface->vni };
	struct arp *arp = arp_request(skb, 0, &asked.ip);

	if (!arp)
		return DROP(ARP_IGNORED);
	if (!same_mac(arp->sender_mac, interface->mac))
		return DROP(SPOOFED_MAC);
	if (__builtin_memcmp(arp->sender_ip, &interface->ip.word[3], 4))
		return DROP(SPOOFED_IP);
	if (same_address(&asked.ip, &interface->ip))
		return DROP(ARP_IGNORED); /* an announcement of its own address */
	if (!bpf_map_lookup_elem(&endpoints, &asked))
		return DROP(UNKNOWN_ENDPOINT);
	arp_reply((void *)arp - L3, arp, &asked.ip);
	return back(skb);
}

/* Multicast, broadcast, loopback, and "this network": nothing here carries them. */
inlined bool nobody(const struct address *to)
{
	__u32 first = bpf_ntohl(to->word[3]) >> 24;

	return first == 0 || first == 127 || first >= 224;
}

/* To no endpoint: out of the overlay through the node's stack, which masquerades what carries the mark. Never to
 * another overlay network, and never to what only nodes say to each other. The published ports of this node itself are
 * not its stack's. */
separate int to_outside(struct __sk_buff *skb, struct packet *p, const struct config *config, __u32 flags)
{
	struct subnet_key key = { .prefix = 128 };
	__u32 *vni;
	int verdict;

	if (!p || !config)
		return DROP(NO_CONFIG);
	key.address = p->to.ip;
	if (nobody(&p->to.ip))
		return DROP(BAD_ADDRESS);
	vni = bpf_map_lookup_elem(&subnets, &key);
	if (vni)
		return *vni == p->to.vni ? DROP(UNKNOWN_ENDPOINT) : DROP(OTHER_NETWORK);
	if (!(flags & INTERFACE_OUTSIDE))
		return DROP(NOT_OUTSIDE);
	if (node_port(p, config))
		return DROP(NODE_PORT);
	if (bpf_map_lookup_elem(&addresses, &p->to.ip)) {
		verdict = from_client(skb, p, config, true);
		if (verdict != TC_ACT_OK)
			return verdict;
	}
	count_event(EVENT_OUTSIDE);
	skb->mark = config->mark;
	bpf_skb_change_type(skb, PACKET_HOST);
	return TC_ACT_OK;
}

/* To an endpoint of the network. */
inlined int to_endpoint(struct __sk_buff *skb, struct packet *p, const struct config *config,
			const struct interface *interface, const struct endpoint *endpoint)
{
	int drop;

	if (p->dont_fragment && larger_than(skb, p, interface->mtu))
		return frag_needed(skb, p, interface->mtu);
	forget(p);
	if (endpoint->kind == ENDPOINT_LOCAL) {
		if (unlikely(endpoint->flags & ENDPOINT_NODE_LOCAL)) {
			drop = reply_to_asker(skb, p, config);
			if (drop != NO_REPLY)
				return drop;
		}
		if (unlikely(closed_to(endpoint, p))) {
			drop = reset(skb, p, REASON_CLOSED_ENDPOINT);
			return drop ? drop : back(skb);
		}
		drop = from_backend(skb, p);
		if (drop)
			return drop;
	}
	return deliver(skb, p, config, endpoint, interface->mac, interface->mtu);
}

/* The node's own interface reaches tasks where something is published, and nowhere else. */
separate int node_may_ask(struct packet *p)
{
	struct published_key target = { .protocol = p->protocol };

	if (!has_ports(p))
		return DROP(UNPUBLISHED);
	if (p->fragment != WHOLE && !fragment_ports(p))
		return DROP(NO_PORTS);
	target.port = p->destination_port;
	return bpf_map_lookup_elem(&targets, &target) ? 0 : DROP(UNPUBLISHED);
}

inlined int from_task(struct __sk_buff *skb)
{
	const struct config *config = config_get();
	const struct interface *interface;
	const struct endpoint *endpoint;
	__u32 ifindex = skb->ifindex;
	struct ethhdr *eth;
	struct packet p = {};
	int verdict;

	interface = bpf_map_lookup_elem(&interfaces, &ifindex);
	if (!config || !interface)
		return DROP(NO_INTERFACE);
	if (skb->vlan_present) /* already out of the frame: it would choose the underlay's VLAN */
		return DROP(NOT_IPV4);
	eth = frame(skb, sizeof(*eth));
	if (!eth)
		return DROP(MALFORMED);
	if (!same_mac(eth->h_source, interface->mac))
		return DROP(SPOOFED_MAC);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return answer_task_arp(skb, interface);
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return DROP(NOT_IPV4);
	verdict = parse(skb, 0, &p);
	if (verdict)
		return verdict;
	if (!same_address(&p.source, &interface->ip))
		return DROP(SPOOFED_IP);
	p.to.vni = interface->vni;
	if (unlikely(interface->flags & INTERFACE_NODE_LOCAL)) {
		verdict = node_may_ask(&p);
		if (verdict)
			return verdict;
	}
	if (interface->flags & INTERFACE_INGRESS) {
		verdict = published_reply(skb, &p, config);
		if (verdict != NO_REPLY)
			return verdict;
	}
	endpoint = bpf_map_lookup_elem(&endpoints, &p.to);
	if (!endpoint)
		return to_outside(skb, &p, config, interface->flags);
	if (likely(endpoint->kind <= ENDPOINT_REMOTE))
		return to_endpoint(skb, &p, config, interface, endpoint);
	if (endpoint->kind == ENDPOINT_GATEWAY)
		return ping(skb, &p);
	return to_vip(skb, &p, config, endpoint, interface->mac, interface->mtu);
}

SEC("tc")
int endpoint(struct __sk_buff *skb)
{
	return finish(skb, from_task(skb));
}
