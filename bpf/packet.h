/* A frame taken apart, and the pieces put back: parse, translate, addresses of the link layer.
 *
 * Offsets count from the start of the frame. Everything here is about IPv4; what it hands on is 16-byte addresses. */
#ifndef MESHNET_PACKET_H
#define MESHNET_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/if_packet.h>
#include <stdbool.h>
#include <stddef.h>

#include "maps.h"

#define L3 ((int)sizeof(struct ethhdr))

/* A program's answer is a TC_ACT_* verdict, or a drop with its reason. */
#define DROP(name) (-REASON_##name)

/* packet.fragment */
#define WHOLE 0
#define FIRST 1
#define LATER 2

/* packet.tcp_flags, as in the header */
#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_FRAG_NEEDED 4

#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

struct packet {
	struct endpoint_key to; /* destination, and the network: as it stands, the key of `endpoints` */
	struct address source;
	__be16 source_port; /* of TCP and UDP, else 0 */
	__be16 destination_port;
	__u16 l4;     /* offset of the transport header */
	__u16 length; /* of the IP packet */
	__be16 id;
	__u8 protocol;
	__u8 fragment;
	__u8 dont_fragment;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 options; /* the IP header is longer than 20 bytes */
};

struct vxlan {
	__u8 flags; /* 8: the VNI is valid */
	__u8 unused[3];
	__be32 vni; /* in the upper 24 bits */
};

/* What is put in front of a frame, less the link header that the underlay gets. */
#define TUNNEL ((int)(sizeof(struct iphdr) + sizeof(struct udphdr) + sizeof(struct vxlan) + sizeof(struct ethhdr)))
struct icmp {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 unused;
	__be16 mtu;
};

/* Four bytes in halves: inside a tunnel, addresses are at odd places, which not every machine can load at once. */
inlined __u32 load32(const void *at)
{
	const __u16 *half = at;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return half[0] | (__u32)half[1] << 16;
#else
	return half[1] | (__u32)half[0] << 16;
#endif
}

inlined void address_ipv4(struct address *address, __be32 ip)
{
	address->word[0] = 0;
	address->word[1] = 0;
	address->word[2] = bpf_htonl(0xffff);
	address->word[3] = ip;
}

inlined bool same_address(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

inlined bool no_address(const struct address *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

/* Loads written out: clang would share the sum of context and offset between them, which the verifier refuses. */
inlined void *frame_start(const struct __sk_buff *skb)
{
	void *start;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(start) : "r"(skb), "i"(offsetof(struct __sk_buff, data)));
	return start;
}

inlined void *frame_end(const struct __sk_buff *skb)
{
	void *end;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(end) : "r"(skb), "i"(offsetof(struct __sk_buff, data_end)));
	return end;
}

/* `size` bytes at `offset` as the program may read them, or NULL: the frame is shorter. Bytes that a driver left in
 * pages are pulled up. */
inlined void *frame_at(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	void *at = frame_start(skb) + offset;

	if (likely(at + size <= frame_end(skb)))
		return at;
	if (skb->len < offset + size || bpf_skb_pull_data(skb, offset + size))
		return NULL;
	at = frame_start(skb) + offset;
	return at + size <= frame_end(skb) ? at : NULL;
}

inlined void *frame(struct __sk_buff *skb, __u32 size)
{
	return frame_at(skb, 0, size);
}

inlined int parse_tcp(struct __sk_buff *skb, __u32 at, __u32 room, struct packet *p)
{
	struct tcphdr *tcp = room < sizeof(*tcp) ? NULL : frame_at(skb, at, sizeof(*tcp));

	if (!tcp || tcp->doff < 5 || (p->fragment == WHOLE && tcp->doff * 4u > room))
		return DROP(MALFORMED);
	p->source_port = tcp->source;
	p->destination_port = tcp->dest;
	p->tcp_flags = ((__u8 *)tcp)[13];
	return 0;
}

inlined int parse_udp(struct __sk_buff *skb, __u32 at, __u32 room, struct packet *p)
{
	struct udphdr *udp = room < sizeof(*udp) ? NULL : frame_at(skb, at, sizeof(*udp));

	if (!udp || bpf_ntohs(udp->len) < sizeof(*udp) || (p->fragment == WHOLE && bpf_ntohs(udp->len) > room))
		return DROP(MALFORMED);
	p->source_port = udp->source;
	p->destination_port = udp->dest;
	return 0;
}

inlined int parse_icmp(struct __sk_buff *skb, __u32 at, __u32 room, struct packet *p)
{
	struct icmp *icmp = room < sizeof(*icmp) ? NULL : frame_at(skb, at, sizeof(*icmp));

	if (!icmp)
		return DROP(MALFORMED);
	p->icmp_type = icmp->type;
	return 0;
}

/* Takes apart the IPv4 packet of the frame that starts at `base` (inside a tunnel packet, else 0); p's offsets count
 * from there. `to.vni` is the caller's. Lengths must agree: what a receiver would refuse is not passed on.
 * Returns 0 or a drop. */
separate int parse(struct __sk_buff *skb, __u32 base, struct packet *p)
{
	struct iphdr *ip;
	__u32 header, room, bits;

	base = base ? TUNNEL : 0;
	ip = frame_at(skb, base + L3, sizeof(*ip));
	if (!ip || !p)
		return DROP(MALFORMED);
	header = ip->ihl * 4;
	p->length = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || p->length < header || base + L3 + p->length > skb->len)
		return DROP(MALFORMED);
	bits = bpf_ntohs(ip->frag_off);
	address_ipv4(&p->source, load32(&ip->saddr));
	address_ipv4(&p->to.ip, load32(&ip->daddr));
	p->l4 = L3 + header;
	p->id = ip->id;
	p->protocol = ip->protocol;
	p->fragment = bits & IP_OFFSET ? LATER : bits & IP_MF ? FIRST : WHOLE;
	p->dont_fragment = !!(bits & IP_DF);
	p->options = header != sizeof(*ip);
	p->source_port = p->destination_port = 0;
	p->tcp_flags = p->icmp_type = 0;
	if (p->fragment == LATER)
		return 0;
	room = p->length - header;
	if (p->protocol == IPPROTO_TCP)
		return parse_tcp(skb, base + L3 + header, room, p);
	if (p->protocol == IPPROTO_UDP)
		return parse_udp(skb, base + L3 + header, room, p);
	if (p->protocol == IPPROTO_ICMP)
		return parse_icmp(skb, base + L3 + header, room, p);
	return 0;
}

inlined bool has_ports(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP;
}

/* Opens a connection, or is a datagram that may: what may be sent to another backend than before. */
inlined bool opens(const struct packet *p)
{
	return p->protocol != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* Judged on single packets only: a GSO packet is cut to size later. */
inlined bool larger_than(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	return unlikely(p->length > mtu) && !skb->gso_size;
}

/* In halves of 16 bits: clang would copy six single bytes. */
inlined void copy_mac(void *to, const void *from)
{
	((__u16 *)to)[0] = ((const __u16 *)from)[0];
	((__u16 *)to)[1] = ((const __u16 *)from)[1];
	((__u16 *)to)[2] = ((const __u16 *)from)[2];
}

inlined bool same_mac(const void *a, const void *b)
{
	return !((((const __u16 *)a)[0] ^ ((const __u16 *)b)[0]) | (((const __u16 *)a)[1] ^ ((const __u16 *)b)[1]) |
		 (((const __u16 *)a)[2] ^ ((const __u16 *)b)[2]));
}

/* The MAC of a task: 02:42 and its address. */
inlined void mac_of(void *mac, const struct address *ip)
{
	((__u16 *)mac)[0] = bpf_htons(0x0242);
	((__u16 *)mac)[1] = ip->word[3] & 0xffff;
	((__u16 *)mac)[2] = ip->word[3] >> 16;
}

inlined int write_macs(struct __sk_buff *skb, const void *to, const struct address *from)
{
	struct ethhdr *eth = frame(skb, sizeof(*eth));

	if (!eth)
		return DROP(MALFORMED);
	copy_mac(eth->h_dest, to);
	mac_of(eth->h_source, from);
	return 0;
}

inlined void swap_macs(struct ethhdr *eth)
{
	__u16 mac[3];

	copy_mac(mac, eth->h_dest);
	copy_mac(eth->h_dest, eth->h_source);
	copy_mac(eth->h_source, mac);
}

/* Ports of a datagram in fragments (RFC 791: later ones have none): kept from the first, found for the rest.
 * Returns whether p has its ports now. */
verified_once bool fragment_ports(struct packet *p)
{
	struct fragment_key key = {};
	struct ports ports, *known;

	if (!p)
		return false;
	key.source = p->source;
	key.destination = p->to.ip;
	key.vni = p->to.vni;
	key.id = p->id;
	key.protocol = p->protocol;
	ports.source = p->source_port;
	ports.destination = p->destination_port;
	if (p->fragment == FIRST)
		return !bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known)
		return false;
	p->source_port = known->source;
	p->destination_port = known->destination;
	return true;
}

#endif
