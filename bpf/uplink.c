/* What comes in from the underlay: members' tunnels, requests for published ports, and the node's own packets, which
 * are left alone. */
#include "arrive.h"

char _license[] SEC("license") = "GPL";

/* Whether the frame is VXLAN for this node that can be taken apart here. IP options and fragments of the outer packet
 * are the kernel's, which hands what it makes of them to `overlay`. Returns 0 (no), 1, or a drop. */
inlined int tunnel(struct __sk_buff *skb, const struct config *config, struct arrival *arrival)
{
	void *start = frame(skb, L3 + TUNNEL);
	struct iphdr *ip;
	struct udphdr *udp;
	struct vxlan *vxlan;
	__u32 length;

	if (!start)
		return 0;
	ip = start + L3;
	udp = start + TUNNEL_UDP;
	vxlan = start + TUNNEL_VXLAN;
	if (*(__u8 *)ip != 0x45 || ip->protocol != IPPROTO_UDP || udp->dest != config->vxlan_port ||
	    ip->daddr != config->address.word[3] || ip->frag_off & bpf_htons(IP_MF | IP_OFFSET) ||
	    !(vxlan->flags & VXLAN_VNI_VALID))
		return 0;
	length = bpf_ntohs(ip->tot_len);
	if (length < TUNNEL || L3 + length > skb->len || bpf_ntohs(udp->len) != length - sizeof(*ip))
		return DROP(MALFORMED);
	arrival->vni = bpf_ntohl(vxlan->vni) >> 8;
	address_ipv4(&arrival->node, ip->saddr);
	return 1;
}

inlined int from_underlay(struct __sk_buff *skb)
{
	const struct config *config = config_get();
	struct arrival arrival;
	struct packet p = {};
	int found;

	if (!config || skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_OK;
	found = tunnel(skb, config, &arrival);
	if (found < 0)
		return found;
	if (found)
		return arrive(skb, TUNNEL, config, &arrival);
	if (parse(skb, 0, &p))
		return TC_ACT_OK;
	p.to.vni = 0;
	return from_client(skb, &p, config, false);
}

SEC("tc")
int uplink(struct __sk_buff *skb)
{
	return finish(skb, from_underlay(skb));
}
