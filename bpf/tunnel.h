/* VXLAN (RFC 7348) made and taken apart here, without a device; the kernel's device takes what is too big. */
#ifndef MESHNET_TUNNEL_H
#define MESHNET_TUNNEL_H

#include "checksum.h"

#define AF_INET 2 /* its header is the C library's */

#define VXLAN_VNI_VALID 8

#define TUNNEL_UDP (L3 + (int)sizeof(struct iphdr))
#define TUNNEL_VXLAN (TUNNEL_UDP + (int)sizeof(struct udphdr))

#define PUSH_FLAGS                                                                                                   \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |                     \
	 BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct ethhdr)))

/* The outer source port spreads connections over the underlay's paths (RFC 7348 §5). All fragments of a datagram get
 * the same, so their ports do not count. */
inlined __u32 entropy(const struct packet *p)
{
	__u32 ports = p->fragment == WHOLE ? (__u32)p->source_port << 16 | p->destination_port : 0;

	return (p->source.word[3] ^ p->to.ip.word[3] * 31 ^ ports) * 0x9e3779b1u;
}

/* Fills the 64 bytes in front of the inner packet. The outer id follows the inner one: the outer packet may be cut
 * on its way. No UDP checksum (RFC 7348 allows it, and the inner packet has its own). */
inlined void write_tunnel(void *at, const struct config *config, const struct packet *p, __be32 node, __u32 length,
			  const void *to, const void *from)
{
	struct ethhdr *outer = at, *inner = at + TUNNEL;
	struct iphdr *ip = at + L3;
	struct udphdr *udp = at + TUNNEL_UDP;
	struct vxlan *vxlan = at + TUNNEL_VXLAN;
	__u32 mix = entropy(p);

	for (int i = 0; i < 6; i++)
		((__u16 *)outer)[i] = 0; /* the kernel fills in the link header */
	outer->h_proto = bpf_htons(ETH_P_IP);
	*(__be16 *)ip = bpf_htons(0x4500);
	ip->tot_len = bpf_htons(length);
	ip->id = p->id ^ (mix & 0xffff);
	ip->frag_off = 0;
	ip->ttl = 64;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = config->address.word[3];
	ip->daddr = node;
	set_ip_checksum(ip);
	udp->source = bpf_htons(0xc000 | mix >> 18);
	udp->dest = config->vxlan_port;
	udp->len = bpf_htons(length - sizeof(*ip));
	udp->check = 0;
	*(__be32 *)vxlan = bpf_htonl(VXLAN_VNI_VALID << 24);
	vxlan->vni = bpf_htonl(p->to.vni << 8);
	copy_mac(inner->h_dest, to);
	copy_mac(inner->h_source, from);
	inner->h_proto = bpf_htons(ETH_P_IP);
}

/* Whether an address is a host's on the underlay's own link: not the link's broadcast address, old or new. */
inlined bool on_link(const struct config *config, __be32 to)
{
	__u32 hosts = 0xffffffffu >> (config->underlay_prefix & 31);
	__u32 host = bpf_ntohl(to) & hosts;

	return config->underlay_prefix && !(bpf_ntohl(to ^ config->address.word[3]) & ~hosts) && host && host != hosts;
}

/* Out of the underlay, by the node's routes but not its stack. What is on the link is its own next hop: looking up a
 * route would cost as much as all other lookups together. */
inlined int to_underlay(const struct config *config, __be32 to)
{
	struct bpf_redir_neigh next_hop = { .nh_family = AF_INET, .ipv4_nh = to };

	if (likely(on_link(config, to)))
		return bpf_redirect_neigh(config->underlay, &next_hop, sizeof(next_hop), 0);
	return bpf_redirect_neigh(config->underlay, NULL, 0, 0);
}

/* The frame as it is, in its network's VNI, to the member `node`; `to` and `from` are the inner MACs. */
inlined int to_node(struct __sk_buff *skb, const struct packet *p, const struct config *config,
		    const struct address *node, const void *to, const void *from)
{
	__u32 length = skb->len + TUNNEL - sizeof(struct ethhdr);
	void *start;

	if (bpf_skb_adjust_room(skb, TUNNEL, BPF_ADJ_ROOM_MAC, PUSH_FLAGS))
		return DROP(HELPER);
	start = frame(skb, L3 + TUNNEL);
	if (!start)
		return DROP(HELPER);
	write_tunnel(start, config, p, node->word[3], length, to, from);
	return to_underlay(config, node->word[3]);
}

/* The same through the kernel's VXLAN device, which cuts the outer packet to the underlay's size. */
separate int through_kernel(struct __sk_buff *skb, const struct config *config, __u32 vni, __be32 node)
{
	struct bpf_tunnel_key key = { .tunnel_id = vni, .remote_ipv4 = bpf_ntohl(node), .tunnel_ttl = 64 };

	if (!config || bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX))
		return DROP(HELPER);
	count_event(EVENT_FALLBACK);
	return bpf_redirect(config->vxlan, 0);
}

/* Takes the tunnel's headers off; what is left starts with the outer link header, to be overwritten. */
inlined int pop_tunnel(struct __sk_buff *skb)
{
	return bpf_skb_adjust_room(skb, -TUNNEL, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) ? DROP(HELPER) : 0;
}

#endif
