"""The program behind `meshnet trace drops`: C for the kernel that runs, with the filter that was asked for.

It sits at the tracepoint skb:kfree_skb, as a raw one, since that needs neither kprobes nor tracefs. It hands over a
packet that was dropped in one of the namespaces in `spaces`, and where there is a filter only one that was dropped in
a namespace marked there, or has one of `addresses` in its own or its tunnelled IP header. What processes say to one
another and to the kernel (AF_UNIX, AF_NETLINK) is in buffers of the same kind, and is no packet.
"""

from __future__ import annotations

import socket

from meshnet.observe.btf import Btf

# A meshnet program that drops a packet leaves its own reason in the mark: see finish() in bpf/deliver.h.
OWN_MARK = 0x6D640000
CAPTURED = 96  # bytes from the IP header on
VXLAN_PORT = 4789
_MEMBERS = {
    "SKB_DEVICE": ("sk_buff", "dev"),
    "SKB_SOCKET": ("sk_buff", "sk"),
    "SKB_LENGTH": ("sk_buff", "len"),
    "SKB_MARK": ("sk_buff", "mark"),
    "SKB_PROTOCOL": ("sk_buff", "protocol"),
    "SKB_NETWORK_HEADER": ("sk_buff", "network_header"),
    "SKB_HEAD": ("sk_buff", "head"),
    "SKB_TAIL": ("sk_buff", "tail"),
    "DEVICE_NAME": ("net_device", "name"),
    "DEVICE_NET": ("net_device", "nd_net.net"),
    "NET_NUMBER": ("net", "ns.inum"),
    "SOCKET_NET": ("sock", "__sk_common.skc_net.net"),
    "SOCKET_FAMILY": ("sock", "__sk_common.skc_family"),
}

_BODY = """
struct event {
	u64 location;
	u32 space;
	u32 reason;
	u32 mark;
	u32 length;
	u16 protocol; /* network order */
	u16 captured;
	char device[16];
	u8 data[CAPTURED];
};
BPF_RINGBUF_OUTPUT(out, 64);
BPF_HASH(spaces, u32, u32, 16384);    /* namespace -> 1: all that matches, 2: everything */
BPF_HASH(addresses, u32, u32, 16384); /* IPv4, network order */
BPF_ARRAY(lost, u64, 1);

#define READ(to, from, at) bpf_probe_read_kernel(&(to), sizeof(to), (void *)((u64)(from) + (at)))

static inline u32 space_of(u64 skb, char *name)
{
	u64 device = 0, socket = 0, net = 0;
	u32 space = 0;
	u16 family = 0;

	READ(device, skb, SKB_DEVICE);
	if (device && !READ(net, device, DEVICE_NET) && net && !READ(space, net, NET_NUMBER) && spaces.lookup(&space)) {
		bpf_probe_read_kernel(name, 16, (void *)(device + DEVICE_NAME));
		return space;
	}
	/* A socket's queue keeps other things in place of the device. */
	space = 0;
	READ(socket, skb, SKB_SOCKET);
	if (socket)
		READ(family, socket, SOCKET_FAMILY);
	if (family == FAMILY_UNIX || family == FAMILY_NETLINK)
		return 0;
	if (socket && !READ(net, socket, SOCKET_NET) && net)
		READ(space, net, NET_NUMBER);
	return space;
}

static inline int known(struct event *e, u32 at)
{
	u32 source, destination;

	__builtin_memcpy(&source, e->data + at + 12, 4);
	__builtin_memcpy(&destination, e->data + at + 16, 4);
	return addresses.lookup(&source) || addresses.lookup(&destination);
}

static inline int about(struct event *e)
{
	if (e->protocol == 0x0608) { /* ARP */
		u32 source, destination;

		__builtin_memcpy(&source, e->data + 14, 4);
		__builtin_memcpy(&destination, e->data + 24, 4);
		return addresses.lookup(&source) || addresses.lookup(&destination);
	}
	if (e->protocol != 0x0008)
		return 0;
	if (known(e, 0))
		return 1;
	return e->data[9] == 17 && e->data[22] == VXLAN_PORT >> 8 && e->data[23] == (VXLAN_PORT & 255) && known(e, 50);
}

RAW_TRACEPOINT_PROBE(kfree_skb)
{
	u64 skb = ctx->args[0], head = 0;
	struct event e = {};
	u32 *kind, tail = 0;
	u16 start = 0;

	e.reason = ctx->args[2];
	if (e.reason < FIRST_REASON)
		return 0;
	e.space = space_of(skb, e.device);
	kind = spaces.lookup(&e.space);
	if (!kind)
		return 0;
	e.location = ctx->args[1];
	READ(e.mark, skb, SKB_MARK);
	READ(e.length, skb, SKB_LENGTH);
	READ(e.protocol, skb, SKB_PROTOCOL);
	READ(head, skb, SKB_HEAD);
	READ(tail, skb, SKB_TAIL);
	READ(start, skb, SKB_NETWORK_HEADER);
	if (head && start < tail) {
		/* What lies beyond the packet is still its buffer: struct skb_shared_info. */
		READ(e.data, head, start);
		e.captured = tail - start < CAPTURED ? tail - start : CAPTURED;
	}
	if (*kind != 2 && !about(&e))
		return 0;
	if (out.ringbuf_output(&e, sizeof(e), 0)) {
		int zero = 0;
		u64 *count = lost.lookup(&zero);

		if (count)
			__sync_fetch_and_add(count, 1);
	}
	return 0;
}
"""


def source(btf: Btf) -> str:
    """The program's text for a kernel. KeyError if that kernel lacks what the program reads (drop reasons: 5.17)."""
    first = min(value for value, name in btf.enum("skb_drop_reason").items() if name.startswith("SKB_DROP_REASON_"))
    numbers = {name: btf.offset(*member) for name, member in _MEMBERS.items()}
    numbers |= {"FAMILY_UNIX": int(socket.AF_UNIX), "FAMILY_NETLINK": int(socket.AF_NETLINK)}
    numbers |= {"CAPTURED": CAPTURED, "VXLAN_PORT": VXLAN_PORT, "FIRST_REASON": first}
    return "".join(f"#define {name} {value}\n" for name, value in numbers.items()) + _BODY


def reasons(btf: Btf) -> dict[int, str]:
    """The kernel's drop reasons by number, in lower case and without their prefix."""
    return {value: name.removeprefix("SKB_DROP_REASON_").lower() for value, name in btf.enum("skb_drop_reason").items()}
