/* The Internet checksum (RFC 1071, RFC 1624) and translation of addresses and ports. */
#ifndef MESHNET_CHECKSUM_H
#define MESHNET_CHECKSUM_H

#include "packet.h"

inlined __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Sum of 16-bit words of `size` bytes, a multiple of 4, not folded. */
inlined __u64 sum_of(const void *data, __u32 size)
{
	const __u32 *word = data;
	__u64 sum = 0;

	for (__u32 i = 0; i < size / 4; i++)
		sum += word[i];
	return sum;
}

/* Sum of the pseudo header of TCP and UDP: `length` counts the transport header and what follows. */
inlined __u16 pseudo_sum(__be32 source, __be32 destination, __u8 protocol, __u16 length)
{
	return fold((__u64)source + destination + bpf_htons(protocol) + bpf_htons(length));
}

inlined void set_ip_checksum(struct iphdr *ip)
{
	ip->check = 0;
	ip->check = ~fold(sum_of(ip, sizeof(*ip)));
}

inlined void change_ip_checksum(struct iphdr *ip, __be32 from, __be32 to)
{
	ip->check = ~fold((__u64)(__u16)~ip->check + (__u32)~from + to);
}

/* Which end of a packet a translation changes. */
#define SOURCE 0
#define DESTINATION 1

/* Keeps the transport checksum right when an address and a port change. The helper knows whether the kernel has left
 * the sum to the device (CHECKSUM_PARTIAL), which a program cannot see; then only the address counts. */
inlined int change_checksum(struct __sk_buff *skb, const struct packet *p, __be32 from, __be32 to, __be16 from_port,
			    __be16 to_port)
{
	bool tcp = p->protocol == IPPROTO_TCP;
	__u32 at = p->l4 + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	__u64 flags = tcp ? 0 : BPF_F_MARK_MANGLED_0;

	if (from_port != to_port && bpf_l4_csum_replace(skb, at, from_port, to_port, 2 | flags))
		return DROP(HELPER);
	if (from != to && bpf_l4_csum_replace(skb, at, from, to, 4 | flags | BPF_F_PSEUDO_HDR))
		return DROP(HELPER);
	return 0;
}

/* Puts another address and port (0: as it is) at one end of the packet, in the frame and in p. The checksum first:
 * the helper may move the frame. In later fragments there is only the address. Returns 0 or a drop. */
separate int translate(struct __sk_buff *skb, struct packet *p, int end, const struct address *address, __be16 port)
{
	struct address *old;
	struct iphdr *ip;
	__be16 *ports, *old_port;
	__be32 from, to;

	if (!p || !address)
		return DROP(MALFORMED);
	old = end == SOURCE ? &p->source : &p->to.ip;
	old_port = end == SOURCE ? &p->source_port : &p->destination_port;
	from = old->word[3];
	to = address->word[3];
	if (!port)
		port = *old_port;
	if (p->fragment != LATER && has_ports(p)) {
		if (change_checksum(skb, p, from, to, *old_port, port))
			return DROP(HELPER);
		if (port != *old_port) {
			ports = frame_at(skb, (p->l4 & 0x7c) | 2, 4); /* as it is: shown to be even */
			if (!ports)
				return DROP(MALFORMED);
			ports[end == SOURCE ? 0 : 1] = port;
		}
	}
	ip = frame(skb, L3 + sizeof(*ip));
	if (!ip)
		return DROP(MALFORMED);
	ip = (void *)ip + L3;
	change_ip_checksum(ip, from, to);
	if (end == SOURCE)
		ip->saddr = to;
	else
		ip->daddr = to;
	*old = *address;
	*old_port = port;
	return 0;
}

#endif
