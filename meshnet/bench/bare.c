/* The least that a data path of this kind can do: the same devices and helpers as meshnet's programs, and nothing looked
 * up, checked, translated, or counted. What it costs is the floor; what meshnet costs above it is meshnet's own.
 *
 * `task` runs where meshnet's `endpoint` does, `node` where its `uplink` does. Addresses are in network order. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TUNNEL 50
#define AF_INET 2
#define PUSH                                                                                                         \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |                     \
	 BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN))

char _license[] SEC("license") = "GPL";

struct place {
	__be32 address;
	__u32 where; /* interface index of a task's port; or the tunnel address of a task's node */
};

struct config {
	__be32 address;  /* of this node */
	__u32 underlay;  /* its underlay device */
	__be32 client;   /* outside */
	__be32 ingress;  /* the node that replies to the client go through, 0: they go straight to it */
	struct place local[2], remote[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} bare_config SEC(".maps");

static __always_inline int to_neighbour(const struct config *config, __be32 address)
{
	struct bpf_redir_neigh next_hop = { .nh_family = AF_INET, .ipv4_nh = address };

	return bpf_redirect_neigh(config->underlay, &next_hop, sizeof(next_hop), 0);
}

static __always_inline int push(struct __sk_buff *skb, const struct config *config, __be32 node)
{
	__u32 length = skb->len + TUNNEL - ETH_HLEN, sum = 0;
	void *start, *end;
	struct iphdr *ip;
	__be16 *udp;

	if (bpf_skb_adjust_room(skb, TUNNEL, BPF_ADJ_ROOM_MAC, PUSH))
		return TC_ACT_SHOT;
	start = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (start + ETH_HLEN + TUNNEL > end)
		return TC_ACT_SHOT;
	ip = start + ETH_HLEN;
	udp = (void *)(ip + 1);
	__builtin_memset(start, 0, ETH_HLEN + TUNNEL);
	((struct ethhdr *)start)->h_proto = bpf_htons(ETH_P_IP);
	*(__be16 *)ip = bpf_htons(0x4500);
	ip->tot_len = bpf_htons(length);
	ip->ttl = 64;
	ip->protocol = 17;
	ip->saddr = config->address;
	ip->daddr = node;
	for (int i = 0; i < 10; i++)
		sum += ((__u16 *)ip)[i];
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~((sum & 0xffff) + (sum >> 16));
	udp[0] = bpf_htons(50000);
	udp[1] = bpf_htons(4789);
	udp[2] = bpf_htons(length - sizeof(*ip));
	*(__be32 *)(udp + 4) = bpf_htonl(0x08000000);
	*(__be16 *)(start + TUNNEL + 12) = bpf_htons(ETH_P_IP);
	return to_neighbour(config, node);
}

/* To whom of the places: a task here, a task elsewhere, or NULL's worth of nobody: -1. */
static __always_inline int to_task(struct __sk_buff *skb, const struct config *config, __be32 to)
{
	for (int i = 0; i < 2; i++) {
		if (config->local[i].address == to) {
			bpf_skb_change_type(skb, 0); /* PACKET_HOST */
			return bpf_redirect_peer(config->local[i].where, 0);
		}
		if (config->remote[i].address == to)
			return push(skb, config, config->remote[i].where);
	}
	return -1;
}

SEC("tc")
int task(struct __sk_buff *skb)
{
	void *start = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct config *config;
	struct iphdr *ip = start + ETH_HLEN;
	__u32 zero = 0;
	int done;

	config = bpf_map_lookup_elem(&bare_config, &zero);
	if (!config || (void *)(ip + 1) > end)
		return TC_ACT_SHOT;
	done = to_task(skb, config, ip->daddr);
	if (done >= 0)
		return done;
	return config->ingress ? push(skb, config, config->ingress) : to_neighbour(config, config->client);
}

SEC("tc")
int node(struct __sk_buff *skb)
{
	void *start = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct config *config;
	struct iphdr *ip = start + ETH_HLEN;
	__u32 zero = 0;
	int done;

	config = bpf_map_lookup_elem(&bare_config, &zero);
	if (!config || skb->protocol != bpf_htons(ETH_P_IP) || (void *)(ip + 1) + 4 > end)
		return TC_ACT_OK;
	if (ip->protocol != 17 || ((__be16 *)(ip + 1))[1] != bpf_htons(4789)) {
		done = to_task(skb, config, ip->daddr);
		return done >= 0 ? done : TC_ACT_OK;
	}
	if (bpf_skb_adjust_room(skb, -TUNNEL, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return TC_ACT_SHOT;
	start = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	ip = start + ETH_HLEN;
	if ((void *)(ip + 1) > end)
		return TC_ACT_SHOT;
	__builtin_memset(start, 2, 12);
	done = to_task(skb, config, ip->daddr);
	return done >= 0 ? done : to_neighbour(config, config->client);
}
