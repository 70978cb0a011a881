/* What came out of a tunnel, whoever took it apart: `base` is where the inner frame starts, 0 after the kernel's
 * VXLAN device, else behind the headers that are still there. */
#ifndef MESHNET_ARRIVE_H
#define MESHNET_ARRIVE_H

#include "published.h"
#include "vip.h"

struct arrival {
	struct address node; /* the member that sent it */
	__u32 vni;
};

/* Back through the tunnel to the member that the frame came from. */
inlined int back_to_node(struct __sk_buff *skb, __u32 base, const struct config *config,
			 const struct arrival *arrival)
{
	void *start;
	struct iphdr *ip;
	struct udphdr *udp;

	if (!base)
		return through_kernel(skb, config, arrival->vni, arrival->node.word[3]);
	start = frame(skb, L3 + TUNNEL);
	if (!start)
		return DROP(MALFORMED);
	ip = start + L3;
	udp = start + TUNNEL_UDP;
	ip->daddr = ip->saddr;
	ip->saddr = config->address.word[3];
	ip->ttl = 64;
	set_ip_checksum(ip);
	udp->check = 0;
	return to_underlay(config, arrival->node.word[3]);
}

/* ARP in a tunnel: some member's bridge floods it. Only the owner of the address answers. */
inlined int answer_arp(struct __sk_buff *skb, __u32 base, const struct config *config, const struct arrival *arrival)
{
	struct endpoint_key asked = { .vni = arrival->vni };
	struct endpoint *endpoint;
	struct arp *arp = arp_request(skb, base, &asked.ip);

	if (!arp)
		return DROP(ARP_IGNORED);
	endpoint = bpf_map_lookup_elem(&endpoints, &asked);
	if (!endpoint || endpoint->kind != ENDPOINT_LOCAL)
		return DROP(ARP_IGNORED);
	arp_reply((void *)arp - L3, arp, &asked.ip);
	return back_to_node(skb, base, config, arrival);
}

/* What will be answered with RST is left to the kernel's VXLAN device while it is in its tunnel, and comes back through
 * `overlay`. Whatever another namespace of this machine has put into a tunnel can, taken out of it here, neither be cut
 * to size (ENOTSUPP) nor put into another (EALREADY): skb->encapsulation stays set. */
#define TAKE_OUT TC_ACT_OK

/* A segment of a member's task is answered with RST, from where it was sent to. */
inlined int reset_to_node(struct __sk_buff *skb, __u32 base, struct packet *p, const struct config *config,
			  const struct arrival *arrival, __u32 reason)
{
	__u16 to[3], from[3];
	int drop;

	if (base)
		return TAKE_OUT;
	drop = reset(skb, p, reason);
	if (drop)
		return drop;
	mac_of(to, &p->to.ip);
	mac_of(from, &p->source);
	return to_node(skb, p, config, &arrival->node, to, from);
}

/* To an endpoint that was here and is removed: a TCP connection is told so. One that begins may be for its service's
 * VIP, and goes to another backend when it asks again; without a VIP there is nothing to wait for. */
inlined int to_removed(struct __sk_buff *skb, __u32 base, struct packet *p, const struct config *config,
		       const struct arrival *arrival, const struct endpoint *removed)
{
	if (p->protocol != IPPROTO_TCP || (opens(p) && removed->via.word[3]))
		return DROP(REMOVED_BACKEND);
	return reset_to_node(skb, base, p, config, arrival, REASON_REMOVED_BACKEND);
}

/* The reply of a published port on its way back through this node. */
inlined int return_to_client(struct __sk_buff *skb, __u32 base, struct packet *p, const struct config *config)
{
	if (!bpf_map_lookup_elem(&addresses, &p->source))
		return DROP(NOT_OURS);
	if (base && pop_tunnel(skb))
		return DROP(HELPER);
	return to_wire(skb, p, config);
}

/* A published port's packet for the task that its MAC names. */
inlined int to_served(struct __sk_buff *skb, __u32 base, struct packet *p, const struct config *config,
		      const struct arrival *arrival, struct endpoint_key *backend)
{
	struct published_key port = { .port = p->destination_port, .protocol = p->protocol };
	const struct endpoint *task = bpf_map_lookup_elem(&endpoints, backend);
	const struct service *service;
	__u16 from[3];
	int drop;

	if (!task || (task->kind != ENDPOINT_LOCAL && task->kind != ENDPOINT_REMOVED))
		return DROP(UNKNOWN_BACKEND);
	if (!has_ports(p)) {
		if (task->kind != ENDPOINT_LOCAL)
			return DROP(UNSUPPORTED);
		if (base && pop_tunnel(skb))
			return DROP(HELPER);
		return serve_error(skb, p, config, &backend->ip, task);
	}
	if (unlikely(p->fragment != WHOLE)) {
		if (!fragment_ports(p))
			return DROP(NO_PORTS);
		port.port = p->destination_port;
	}
	service = bpf_map_lookup_elem(&published, &port);
	if (!service)
		return DROP(UNPUBLISHED);
	if (task->kind == ENDPOINT_REMOVED && opens(p))
		return DROP(REMOVED_BACKEND); /* the ingress node picks another as soon as it knows */
	if (unlikely(base && task->kind == ENDPOINT_REMOVED))
		return TAKE_OUT;
	if (base && pop_tunnel(skb))
		return DROP(HELPER);
	if (likely(task->kind == ENDPOINT_LOCAL))
		return serve(skb, p, config, service, &backend->ip, task, &arrival->node);
	drop = reset(skb, p, REASON_REMOVED_BACKEND);
	if (drop)
		return drop;
	mac_of(from, &backend->ip);
	return to_client(skb, p, config, &arrival->node, from);
}

/* The task that a 02:42 MAC names, whatever the packet's address says. Returns false if the two agree. */
inlined bool names_another(const struct ethhdr *eth, const struct packet *p, struct endpoint_key *named)
{
	const __u16 *mac = (const __u16 *)eth->h_dest;
	__be32 ip = mac[1] | (__u32)mac[2] << 16;

	if (ip == p->to.ip.word[3] || mac[0] != bpf_htons(0x0242))
		return false;
	named->vni = p->to.vni;
	address_ipv4(&named->ip, ip);
	return true;
}

/* An IPv4 packet of a member's tunnel. */
inlined int arrive_ipv4(struct __sk_buff *skb, __u32 base, const struct config *config, const struct arrival *arrival)
{
	const struct endpoint *endpoint;
	struct endpoint_key named;
	struct packet p = {};
	void *start;
	int drop = parse(skb, base, &p);

	if (drop)
		return drop;
	p.to.vni = arrival->vni;
	if (arrival->vni == config->ingress_vni) {
		start = frame(skb, base + L3);
		if (!start)
			return DROP(MALFORMED);
		if (names_another(start + base, &p, &named))
			return named.ip.word[3] ? to_served(skb, base, &p, config, arrival, &named) :
						  return_to_client(skb, base, &p, config);
	}
	endpoint = bpf_map_lookup_elem(&endpoints, &p.to);
	if (unlikely(!endpoint))
		return DROP(UNKNOWN_ENDPOINT);
	if (unlikely(endpoint->kind != ENDPOINT_LOCAL))
		return endpoint->kind == ENDPOINT_REMOVED ? to_removed(skb, base, &p, config, arrival, endpoint) :
							   DROP(UNKNOWN_ENDPOINT);
	if (unlikely(closed_to(endpoint, &p)))
		return reset_to_node(skb, base, &p, config, arrival, REASON_CLOSED_ENDPOINT);
	if (base && pop_tunnel(skb))
		return DROP(HELPER);
	if (unlikely(endpoint->flags & ENDPOINT_NODE_LOCAL)) {
		drop = reply_to_asker(skb, &p, config);
		if (drop != NO_REPLY)
			return drop;
	}
	drop = from_backend(skb, &p);
	if (drop)
		return drop;
	return to_task(skb, &p, config, endpoint);
}

/* A frame out of a tunnel: taken only from members, and only in the networks that this node holds. Others' VNIs are
 * left to the kernel, whoever sends them. */
inlined int arrive(struct __sk_buff *skb, __u32 base, const struct config *config, const struct arrival *arrival)
{
	struct ethhdr *eth;
	__u32 vni = arrival->vni;

	if (unlikely(!bpf_map_lookup_elem(&networks, &vni))) {
		count_event(EVENT_UNKNOWN_VNI);
		return TC_ACT_OK;
	}
	if (unlikely(!bpf_map_lookup_elem(&peers, &arrival->node)))
		return DROP(UNKNOWN_MEMBER);
	eth = frame(skb, base + sizeof(*eth));
	if (!eth)
		return DROP(MALFORMED);
	eth = (void *)eth + base;
	if (likely(eth->h_proto == bpf_htons(ETH_P_IP)))
		return arrive_ipv4(skb, base, config, arrival);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return answer_arp(skb, base, config, arrival);
	return DROP(NOT_IPV4);
}

#endif
