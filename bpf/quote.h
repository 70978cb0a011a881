/* ICMP errors about translated connections (RFC 792): they quote the packet that they are about as it was where the
 * error was made. Who gets the error must find in it what it had sent. */
#ifndef MESHNET_QUOTE_H
#define MESHNET_QUOTE_H

#include "checksum.h"

/* The first of a quoted packet: what the error is about. */
struct quote {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
};

#define QUOTE (L3 + (int)(sizeof(struct iphdr) + sizeof(struct icmp)))
#define QUOTED_PORTS (QUOTE + (int)sizeof(struct iphdr))

/* Whether p is an ICMP error about a TCP or UDP packet, both without IP options; then `quote` is what about. */
inlined bool error_about(struct __sk_buff *skb, __u32 base, const struct packet *p, struct quote *quote)
{
	const struct iphdr *ip;
	const __be16 *ports;

	if (p->protocol != IPPROTO_ICMP || p->fragment != WHOLE || p->options ||
	    (p->icmp_type != ICMP_UNREACHABLE && p->icmp_type != ICMP_TIME_EXCEEDED) ||
	    p->length < QUOTED_PORTS + 8 - L3)
		return false;
	ip = frame_at(skb, base + QUOTE, sizeof(*ip) + 8);
	if (!ip)
		return false;
	ports = (void *)(ip + 1);
	if (*(const __u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IP_OFFSET) ||
	    (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP))
		return false;
	address_ipv4(&quote->source, load32(&ip->saddr));
	address_ipv4(&quote->destination, load32(&ip->daddr));
	quote->source_port = ports[0];
	quote->destination_port = ports[1];
	quote->protocol = ip->protocol;
	return true;
}

/* Puts another address and port at one end of the quoted packet. The quoted IP checksum makes up for the address, so
 * the ICMP checksum sees only the port. The quoted transport checksum stays: nobody has the bytes to check it. */
separate int translate_quote(struct __sk_buff *skb, const struct quote *quote, int end, const struct address *address,
			     __be16 port)
{
	__be16 from_port = end == SOURCE ? quote->source_port : quote->destination_port;
	__be32 from = end == SOURCE ? quote->source.word[3] : quote->destination.word[3];
	__be32 to = address->word[3];
	struct iphdr *ip;
	__be16 *ports;

	if (port != from_port && bpf_l4_csum_replace(skb, L3 + sizeof(*ip) + offsetof(struct icmp, checksum), from_port,
						     port, 2))
		return DROP(HELPER);
	ip = frame_at(skb, QUOTE, sizeof(*ip) + 8);
	if (!ip)
		return DROP(MALFORMED);
	change_ip_checksum(ip, from, to);
	ports = (void *)(ip + 1);
	if (end == SOURCE) {
		ip->saddr = to;
		ports[0] = port;
	} else {
		ip->daddr = to;
		ports[1] = port;
	}
	return 0;
}

#endif
