/* A frame as the kernel's VXLAN device hands it on: with the tunnel that it came through. A test run starts without one;
 * this program gives it one and goes on with the program under test.
 *
 * cb[0] is the VNI, cb[1] the sender's address as a number. A key that is set describes a packet to be sent, and its
 * local address is the source: the very field that is the sender's when a key is read. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

SEC("tc")
int arrived(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = { .tunnel_id = skb->cb[0], .local_ipv4 = skb->cb[1], .tunnel_ttl = 64 };

	skb->cb[0] = 0;
	skb->cb[1] = 0;
	if (!bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 0))
		bpf_tail_call(skb, &under_test, 0);
	return -1; /* no verdict of any program */
}

char LICENSE[] SEC("license") = "GPL";
