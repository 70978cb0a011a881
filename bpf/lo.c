/* 127.0.0.11:53 inside a task, on egress of its lo: common questions are answered at once (dns.h), all else is steered
 * to the resolver's own port.
 *
 * Only packets of that one address are touched, so a task may bind *:53 itself and be reached on 127.0.0.1
 * and on its own addresses. The port is the same in every task. */
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <stddef.h>

#include "dns.h"

#define RESOLVER_ADDRESS 0x7f00000b /* 127.0.0.11 */
#define RESOLVER_PORT 61053	    /* RESOLVER_PORT in meshnet/dns/__init__.py; a test compares them */
#define DNS_PORT 53

#define FRAGMENT_OFFSET 0x1fff

/* Offset of the checksum within the L4 header, or a negative number for a protocol that is not steered. */
inlined int checksum_offset(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_UDP:
		return offsetof(struct udphdr, check);
	case IPPROTO_TCP:
		return offsetof(struct tcphdr, check);
	default:
		return -1;
	}
}

/* Replaces a port and corrects the checksum. The helper leaves a CHECKSUM_PARTIAL sum alone (it covers no
 * ports yet); a UDP sum of 0 means that there is none, in TCP it is a sum like any other. */
inlined void replace_port(struct __sk_buff *skb, __u8 protocol, __u32 offset, __u32 checksum,
					 __be16 from, __be16 to)
{
	__u64 flags = sizeof(to) | (protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0);

	if (bpf_l4_csum_replace(skb, checksum, from, to, flags) == 0)
		bpf_skb_store_bytes(skb, offset, &to, sizeof(to), 0);
}

SEC("tc")
int lo_steer(struct __sk_buff *skb)
{
	const __be32 resolver = bpf_htonl(RESOLVER_ADDRESS);
	const __be16 dns = bpf_htons(DNS_PORT), port = bpf_htons(RESOLVER_PORT);
	struct iphdr ip;
	struct ports ports;

	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_OK;
	if (ip.daddr != resolver && ip.saddr != resolver)
		return TC_ACT_OK;

	int sum = checksum_offset(ip.protocol);
	__u32 l4 = ETH_HLEN + ip.ihl * 4;

	if (sum < 0 || ip.frag_off & bpf_htons(FRAGMENT_OFFSET) || bpf_skb_load_bytes(skb, l4, &ports, sizeof(ports)))
		return TC_ACT_OK;

	if (ip.daddr == resolver && ports.destination == dns) {
		if (ip.protocol == IPPROTO_UDP && dns_answer(skb))
			return TC_ACT_OK;
		replace_port(skb, ip.protocol, l4 + offsetof(struct ports, destination), l4 + sum, dns, port);
	} else if (ip.saddr == resolver && ports.source == port) {
		replace_port(skb, ip.protocol, l4 + offsetof(struct ports, source), l4 + sum, port, dns);
	}
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
