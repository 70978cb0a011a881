/* What the kernel's VXLAN device took apart: the fallback. It gets tunnel packets that were cut on their way, and those
 * of networks that are not ours, which stay the kernel's. */
#include "arrive.h"

char _license[] SEC("license") = "GPL";

inlined int from_device(struct __sk_buff *skb)
{
	const struct config *config = config_get();
	struct bpf_tunnel_key key = {};
	struct arrival arrival;

	if (!config || bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return TC_ACT_OK;
	arrival.vni = key.tunnel_id;
	address_ipv4(&arrival.node, bpf_htonl(key.remote_ipv4));
	return arrive(skb, 0, config, &arrival);
}

SEC("tc")
int overlay(struct __sk_buff *skb)
{
	return finish(skb, from_device(skb));
}
