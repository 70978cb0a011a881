/* Packets that are answered where they are: ARP, ping, RST, ICMP errors. Each turns the frame into its answer. */
#ifndef MESHNET_ANSWER_H
#define MESHNET_ANSWER_H

#include "tunnel.h"

struct arp {
	__be16 hardware, protocol;
	__u8 hardware_size, protocol_size;
	__be16 operation;
	__u8 sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
};
_Static_assert(sizeof(struct arp) == 28, "arp");

#define ARP_REQUEST 1
#define ARP_REPLY 2

/* Back out of the device that the frame came from. */
inlined int back(struct __sk_buff *skb)
{
	return bpf_redirect(skb->ifindex, 0);
}

/* The ARP packet (RFC 826) of the frame at `base`, if it is a well-formed request; `target` is whom it asks for. */
inlined struct arp *arp_request(struct __sk_buff *skb, __u32 base, struct address *target)
{
	struct arp *arp = frame(skb, base + L3 + sizeof(*arp));
	__be32 ip;

	if (!arp)
		return NULL;
	arp = (void *)arp + base + L3;
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_size != 6 ||
	    arp->protocol_size != 4 || arp->operation != bpf_htons(ARP_REQUEST))
		return NULL;
	__builtin_memcpy(&ip, arp->target_ip, 4);
	address_ipv4(target, ip);
	return arp;
}

/* Turns the request into its reply: "`target` is at 02:42:target". */
inlined void arp_reply(struct ethhdr *eth, struct arp *arp, const struct address *target)
{
	copy_mac(eth->h_dest, eth->h_source);
	mac_of(eth->h_source, target);
	arp->operation = bpf_htons(ARP_REPLY);
	copy_mac(arp->target_mac, arp->sender_mac);
	__builtin_memcpy(arp->target_ip, arp->sender_ip, 4);
	mac_of(arp->sender_mac, target);
	__builtin_memcpy(arp->sender_ip, &target->word[3], 4);
	count_event(EVENT_ARP_ANSWERED);
}

/* Answers a ping (RFC 792). Of a ping in fragments every piece goes back; only the first has the type to change. */
separate int ping_answer(struct __sk_buff *skb, struct packet *p)
{
	void *data;
	struct iphdr *ip;
	__be32 source;

	if (!p)
		return DROP(MALFORMED);
	if (p->fragment != LATER) {
		__u8 reply = ICMP_ECHO_REPLY;
		__u32 at = p->l4 & 0x7f;

		if (bpf_l4_csum_replace(skb, at + offsetof(struct icmp, checksum), bpf_htons(ICMP_ECHO << 8), 0, 2) ||
		    bpf_skb_store_bytes(skb, at, &reply, 1, 0))
			return DROP(HELPER);
	}
	data = frame(skb, L3 + sizeof(*ip));
	if (!data)
		return DROP(MALFORMED);
	swap_macs(data);
	ip = data + L3;
	source = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	if (p->fragment != LATER)
		count_event(EVENT_PING_ANSWERED);
	return back(skb);
}

/* Whether the kernel left the transport checksum to the device (CHECKSUM_PARTIAL): then the field holds the pseudo
 * header's sum. What is built over such a packet keeps that state, and the device will write its sum there. */
inlined bool checksum_is_partial(const struct iphdr *ip, __u16 check)
{
	return check == pseudo_sum(ip->saddr, ip->daddr, ip->protocol, bpf_ntohs(ip->tot_len) - sizeof(*ip));
}

/* Writes the reset of RFC 9293 §3.10.7.1 over the headers of the segment at `start`. */
inlined void write_reset(void *start, const struct packet *p)
{
	struct iphdr *ip = start + L3;
	struct tcphdr *tcp = start + L3 + sizeof(*ip);
	__u32 payload = p->length - sizeof(*ip) - tcp->doff * 4u;
	bool partial = checksum_is_partial(ip, tcp->check);
	__be32 sequence = tcp->seq, acknowledged = tcp->ack_seq, source = ip->saddr;
	__u16 pseudo;

	swap_macs(start);
	*(__be16 *)ip = bpf_htons(0x4500);
	ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*tcp));
	ip->id = 0;
	ip->frag_off = bpf_htons(IP_DF);
	ip->ttl = 64;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	set_ip_checksum(ip);
	tcp->source = p->destination_port;
	tcp->dest = p->source_port;
	payload += !!(p->tcp_flags & TCP_SYN) + !!(p->tcp_flags & TCP_FIN);
	if (p->tcp_flags & TCP_ACK) {
		tcp->seq = acknowledged;
		tcp->ack_seq = 0;
	} else {
		tcp->seq = 0;
		tcp->ack_seq = bpf_htonl(bpf_ntohl(sequence) + payload);
	}
	((__u8 *)tcp)[12] = 5 << 4;
	((__u8 *)tcp)[13] = p->tcp_flags & TCP_ACK ? TCP_RST : TCP_RST | TCP_ACK;
	tcp->window = 0;
	tcp->check = 0;
	tcp->urg_ptr = 0;
	pseudo = pseudo_sum(ip->saddr, ip->daddr, IPPROTO_TCP, sizeof(*tcp));
	tcp->check = partial ? pseudo : (__u16)~fold(sum_of(tcp, sizeof(*tcp)) + pseudo);
}

/* Turns a TCP segment into the RST that answers it, from where it was sent to; p then describes the RST. The caller
 * sends it. A RST is never answered, nor what has IP options or is in fragments. Returns 0 or a drop. */
separate int reset(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	__u32 size = L3 + sizeof(struct iphdr) + sizeof(struct tcphdr);
	struct address source;
	__be16 port;
	void *start;

	if (!p || p->tcp_flags & TCP_RST || p->options || p->fragment != WHOLE)
		return -(int)reason;
	count_drop(reason);
	if (bpf_skb_change_tail(skb, size, 0))
		return DROP(HELPER);
	start = frame(skb, L3 + sizeof(struct iphdr) + sizeof(struct tcphdr));
	if (!start)
		return DROP(HELPER);
	write_reset(start, p);
	source = p->source;
	port = p->source_port;
	p->source = p->to.ip;
	p->to.ip = source;
	p->source_port = p->destination_port;
	p->destination_port = port;
	p->length = size - L3;
	p->id = 0;
	count_event(EVENT_RESET_SENT);
	return 0;
}

/* Sum of the quoted packet in an ICMP error. If its transport checksum is the device's to write, then the device will
 * write it into the quote: count it as written. (A device that never does so hands the packet on unverified.) */
inlined __u64 quote_sum(const void *quote, __u32 quoted)
{
	const struct iphdr *ip = quote;
	const void *transport = quote + sizeof(*ip);
	__u64 rest = sum_of(transport, 8);
	__u16 check, written;

	if (quoted == 40)
		rest += sum_of(transport + 8, 12);
	check = quoted == 40 ? ((const struct tcphdr *)transport)->check : ((const struct udphdr *)transport)->check;
	if ((ip->protocol == IPPROTO_UDP || quoted == 40) && checksum_is_partial(ip, check)) {
		written = ~fold(rest);
		rest += (__u16)~check;
		rest += written ? written : 0xffff;
	}
	return sum_of(ip, sizeof(*ip)) + rest;
}

inlined void write_icmp_error(void *start, __u32 quoted, __u32 kind, __u32 mtu, __be32 source, __be32 destination)
{
	struct iphdr *ip = start + L3;
	struct icmp *icmp = start + L3 + sizeof(*ip);

	*(__be16 *)ip = bpf_htons(0x45c0); /* internetwork control, as the kernel sends it */
	ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*icmp) + quoted);
	ip->id = 0;
	ip->frag_off = 0;
	ip->ttl = 64;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = source;
	ip->daddr = destination;
	set_ip_checksum(ip);
	icmp->type = ICMP_UNREACHABLE;
	icmp->code = kind;
	icmp->checksum = 0;
	icmp->unused = 0;
	icmp->mtu = bpf_htons(mtu);
	icmp->checksum = ~fold(sum_of(icmp, sizeof(*icmp)) + quote_sum(icmp + 1, quoted));
}

/* Turns the packet into the ICMP error (RFC 792, RFC 1191) about it, from the address it was sent to, and sends it
 * back where it came from. The quote is the IP header and 8 bytes, of TCP 20, at which the kernel would not cut off
 * a checksum that is still to be written. Counts `reason`; returns a verdict. */
separate int icmp_error(struct __sk_buff *skb, struct packet *p, __u32 reason, __u32 kind, __u32 mtu)
{
	__u32 quoted, room = sizeof(struct iphdr) + sizeof(struct icmp);
	void *start;

	if (!p)
		return DROP(MALFORMED);
	quoted = sizeof(struct iphdr) + (p->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : 8);
	if (p->options || p->fragment == LATER || p->length < quoted ||
	    (p->protocol == IPPROTO_ICMP && p->icmp_type != ICMP_ECHO && p->icmp_type != ICMP_ECHO_REPLY))
		return -(int)reason;
	if (bpf_skb_change_tail(skb, L3 + quoted, 0) || bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, 0))
		return DROP(HELPER);
	start = frame(skb, L3 + 28 + 28);
	if (!start)
		return DROP(HELPER);
	if (p->protocol == IPPROTO_TCP) {
		start = frame(skb, L3 + 28 + 40);
		if (!start)
			return DROP(HELPER);
		write_icmp_error(start, 40, kind, mtu, p->to.ip.word[3], p->source.word[3]);
	} else {
		write_icmp_error(start, 28, kind, mtu, p->to.ip.word[3], p->source.word[3]);
	}
	swap_macs(start);
	count_drop(reason);
	return back(skb);
}

inlined int frag_needed(struct __sk_buff *skb, struct packet *p, __u32 mtu)
{
	int verdict = icmp_error(skb, p, REASON_TOO_BIG, ICMP_FRAG_NEEDED, mtu);

	if (verdict >= 0)
		count_event(EVENT_TOO_BIG_SENT);
	return verdict;
}

inlined int port_unreachable(struct __sk_buff *skb, struct packet *p)
{
	int verdict = icmp_error(skb, p, REASON_NO_BACKEND, ICMP_PORT_UNREACHABLE, 0);

	if (verdict >= 0)
		count_event(EVENT_UNREACHABLE_SENT);
	return verdict;
}

#endif
