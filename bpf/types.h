/* Every structure shared with Python. Plain fields only, no implicit padding: the asserts below keep the layout.
 *
 * Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, so that IPv6 is the same code. `__be` fields are in network
 * order, all others in host order. MACs of tasks are 02:42 and the four octets of the address. */
#ifndef MESHNET_TYPES_H
#define MESHNET_TYPES_H

#include "meshnet.h"

struct address {
	__be32 word[4];
};
_Static_assert(sizeof(struct address) == 16, "address");

/* config.flags */
#define CONFIG_DIRECT_RETURN 1 /* replies of published ports go straight to the client, not via the ingress node */

/* The node itself: the one element of `config`. */
struct config {
	__u64 node_cookie;              /* cookie of the node's network namespace, for the socket programs */
	struct address address;         /* tunnel address: the VTEP */
	struct address ingress_address; /* this node's own address on the ingress network, or zero */
	__u32 ingress_vni;              /* 0: there is no ingress network */
	__u32 underlay;                 /* interface index of the underlay device */
	__u32 vxlan;                    /* interface index of the kernel's VXLAN device, the fallback */
	__u32 flags;                    /* CONFIG_* */
	__u32 mark;                     /* on packets that leave the overlay, for the node's firewall */
	__be16 vxlan_port;              /* UDP, 4789 */
	__u16 ingress_mtu;              /* of interfaces on the ingress network */
	__u8 underlay_mac[6];           /* of the underlay device */
	__u8 underlay_prefix;           /* bits of `address` that all on its link share; 0: not known, or nobody else is */
	__u8 unused;
};
_Static_assert(sizeof(struct config) == 72, "config");

/* interface.flags */
#define INTERFACE_OUTSIDE 1    /* packets to outside the overlay may leave here (the task's way out) */
#define INTERFACE_INGRESS 2    /* on the ingress network: replies of published ports come this way */
#define INTERFACE_NODE_LOCAL 4 /* the node's own interface, its other end is in the same namespace */

/* Who may send through an interface: `interfaces`, by the index of the node-side end. */
struct interface {
	struct address ip;
	__u32 vni;
	__u32 flags; /* INTERFACE_* */
	__u16 mtu;   /* of the task's end */
	__u8 mac[6];
};
_Static_assert(sizeof(struct interface) == 32, "interface");

/* An address of a network, whatever stands behind it: key of `endpoints`. */
struct endpoint_key {
	struct address ip;
	__u32 vni;
};
_Static_assert(sizeof(struct endpoint_key) == 20, "endpoint_key");

/* endpoint.kind */
#define ENDPOINT_LOCAL 1   /* an endpoint of this node (also the node's own ingress address) */
#define ENDPOINT_REMOTE 2  /* an endpoint of another node (also another node's ingress address) */
#define ENDPOINT_VIP 3     /* a service's VIP, see `services` */
#define ENDPOINT_REMOVED 4 /* known to be gone: acts as VIP of its service, see `via` */
#define ENDPOINT_GATEWAY 5 /* the network's gateway: answers ARP, nothing else */

/* endpoint.flags */
#define ENDPOINT_NODE_LOCAL 1 /* LOCAL and in the node's own namespace: bpf_redirect, not redirect_peer */
#define ENDPOINT_IPVS 2       /* REMOTE and behind an IPVS data path */
#define ENDPOINT_CLOSED 4     /* LOCAL and about to be stopped: new TCP connections to its address are refused */
#define ENDPOINT_LEAVING 8    /* REMOTE and draining, or on a member that is silent: a repeated SYN goes elsewhere */

/* What stands behind an address: `endpoints`. One lookup tells a program all it needs to deliver. */
struct endpoint {
	struct address via; /* REMOTE: the member's tunnel address; REMOVED: its service's VIP, or zero; else zero */
	__u32 ifindex;      /* LOCAL: the node-side end */
	__u8 kind;          /* ENDPOINT_* */
	__u8 flags;         /* ENDPOINT_* */
	__u8 mac[6];
	__u32 unused;
};
_Static_assert(sizeof(struct endpoint) == 32, "endpoint");

/* network.flags */
#define NETWORK_INTERNAL 1 /* no way out; for readers of the table: the programs go by INTERFACE_OUTSIDE */

/* A network this node holds: `networks`, by VNI. */
struct network {
	__u32 flags; /* NETWORK_* */
	__u32 mtu;   /* of interfaces on it */
};
_Static_assert(sizeof(struct network) == 8, "network");

/* Key of `subnets`, a longest-prefix table of the networks this node holds; the value is the VNI. */
struct subnet_key {
	__u32 prefix; /* bits of `address`: 96 + the IPv4 prefix length */
	struct address address;
};
_Static_assert(sizeof(struct subnet_key) == 20, "subnet_key");

/* Who gets new connections: `services` by VIP (an overlay address names its network uniquely), and `published` by
 * port. Up to FEW_BACKENDS backends are in here: with many services each is found in a place of its own, far from any
 * cache, and one such place is enough. More are elements 0..count-1 of `set` in `backends`; to change them: write a
 * new set, then this, then delete the old set. No packet sees a gap either way. */
#define FEW_BACKENDS 16 /* a power of two */

struct service {
	__u32 vni;          /* the network of VIP and backends; published: the ingress network */
	__u32 set;          /* 0: all backends are in `few`; else not used again soon */
	__u32 count;        /* 0: no backends, connections are refused at once */
	__u32 turn;         /* index in `turns`, one per service and published port */
	__be16 target_port; /* published: the port at the backend; VIP: 0 */
	__u16 unused;
	struct address few[FEW_BACKENDS];
};
_Static_assert(sizeof(struct service) == 276, "service");

struct published_key {
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 unused;
};
_Static_assert(sizeof(struct published_key) == 4, "published_key");

/* Key of `backends`; the value is the address of a backend of a service that has many. */
struct backend_key {
	__u32 set;
	__u32 index;
};
_Static_assert(sizeof(struct backend_key) == 8, "backend_key");

/* peer.flags */
#define PEER_IPVS 1

/* A member: `peers`, by tunnel address. VXLAN is taken only from these. */
struct peer {
	__u32 flags; /* PEER_* */
};
_Static_assert(sizeof(struct peer) == 4, "peer");

/* A per-packet VIP connection at its client's node: key of `flows`. It can be made from a request and from a reply,
 * so that one entry serves both: neither VIP nor backend is in it. What else shares it gets the next slot. */
struct flow_key {
	struct address client;
	__u32 vni;
	__be16 client_port; /* ICMP and others: 0 */
	__be16 port;        /* of the VIP, and of the backend */
	__u8 protocol;
	__u8 slot; /* 0..FLOW_SLOTS-1 */
	__u16 unused;
};
_Static_assert(sizeof(struct flow_key) == 28, "flow_key");
#define FLOW_SLOTS 4

/* flow.flags, ingress_flow.flags */
#define FLOW_CLOSING 1     /* a FIN or RST was seen: a newcomer may have the place */
#define FLOW_ESTABLISHED 2 /* more than a SYN was seen: another SYN starts anew */

struct flow {
	struct address vip; /* what the client asked for */
	struct address backend;
	__u32 flags; /* FLOW_* */
};
_Static_assert(sizeof(struct flow) == 36, "flow");

/* A connection to a published port at the node it came to: key of `ingress_flows`. */
struct ingress_key {
	struct address client;
	struct address address; /* of this node, as the client used it */
	__be16 client_port;
	__be16 port; /* published */
	__u8 protocol;
	__u8 unused[3];
};
_Static_assert(sizeof(struct ingress_key) == 40, "ingress_key");

struct ingress_flow {
	struct address backend; /* on the ingress network */
	__u32 flags;            /* FLOW_* */
	__be16 node_port;       /* towards an IPVS node: the source port that stands for the client, else 0 */
	__u16 unused;
};
_Static_assert(sizeof(struct ingress_flow) == 24, "ingress_flow");

/* The same connection at its backend's node, as the task sees it: key of `backend_flows`. */
struct backend_flow_key {
	struct address task;
	struct address client;
	__be16 task_port;
	__be16 client_port; /* as the task sees it: another than the client's own if moved */
	__u8 protocol;
	__u8 unused[3];
};
_Static_assert(sizeof(struct backend_flow_key) == 40, "backend_flow_key");

/* What it was before translation: serves requests and replies. Never overwritten by another connection. */
struct backend_flow {
	struct address address; /* of the ingress node, as the client used it */
	struct address node;    /* tunnel address of the ingress node; zero: this node */
	__be16 port;            /* published */
	__be16 client_port;     /* the client's own */
	__u32 unused;
};
_Static_assert(sizeof(struct backend_flow) == 40, "backend_flow");

/* A connection whose tuple was taken at the backend: key of `moved`, the value is the client port it got. */
struct moved_key {
	struct address task;
	struct address client;
	struct address address;
	__be16 client_port;
	__be16 port;
	__u8 protocol;
	__u8 unused[3];
};
_Static_assert(sizeof(struct moved_key) == 56, "moved_key");

/* A connection to a published port that this node makes in its own name, as the client of the backend. Key of
 * `masquerades`, made from what the backend answers. */
struct masquerade_key {
	struct address backend;
	__be16 backend_port;
	__be16 node_port; /* at this node's ingress address */
	__u8 protocol;
	__u8 unused[3];
};
_Static_assert(sizeof(struct masquerade_key) == 24, "masquerade_key");

/* Who asked, and what. */
struct masquerade {
	struct address client;
	struct address address; /* of this node, as the client used it */
	__u32 vni;              /* the client's network if it is a task of this node, 0 on the underlay */
	__be16 client_port;
	__be16 port; /* published */
};
_Static_assert(sizeof(struct masquerade) == 40, "masquerade");

/* Ports of a fragmented datagram, from its first fragment: `fragments`. */
struct fragment_key {
	struct address source;
	struct address destination;
	__u32 vni; /* 0 on the underlay */
	__be16 id;
	__u8 protocol;
	__u8 unused;
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key");

struct ports {
	__be16 source;
	__be16 destination;
};
_Static_assert(sizeof(struct ports) == 4, "ports");

#endif
