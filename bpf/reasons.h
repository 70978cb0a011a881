/* Why a packet was dropped, and what else is worth counting: two lists that C and Python both read.
 * One line per entry, new entries at the end: the position is the index in `drops` and `events`. */
#ifndef MESHNET_REASONS_H
#define MESHNET_REASONS_H

#define REASONS(X) \
	X(NONE, "no reason: never counted") \
	X(MALFORMED, "a header is cut off or its lengths contradict one another") \
	X(NOT_IPV4, "neither IPv4 nor ARP") \
	X(NO_INTERFACE, "sent through an interface that no endpoint owns") \
	X(SPOOFED_MAC, "the sender's MAC is not the endpoint's") \
	X(SPOOFED_IP, "the sender's address is not the endpoint's") \
	X(BAD_ADDRESS, "a destination that no task may send to: multicast, broadcast, loopback") \
	X(UNKNOWN_ENDPOINT, "no endpoint has this address of the network") \
	X(OTHER_NETWORK, "the destination is on another overlay network") \
	X(NOT_OUTSIDE, "the interface is no way out of the overlay") \
	X(NODE_PORT, "a task may not speak to the nodes' own ports") \
	X(UNKNOWN_MEMBER, "VXLAN from an address that is no member's") \
	X(UNKNOWN_BACKEND, "the connection's backend is not known here, though not known to be removed") \
	X(REMOVED_BACKEND, "the connection's backend is gone: answered with RST where it is TCP") \
	X(NO_BACKEND, "the service has no backend: refused with RST or port unreachable") \
	X(NO_FLOW, "in the middle of a connection that is not known") \
	X(NO_PORTS, "a later fragment whose first was not seen") \
	X(FLOW_TABLE, "a connection could not be entered into the flow table") \
	X(FLOW_COLLISION, "no free place or port for a connection that looks like others") \
	X(TOO_BIG, "larger than the way allows: reported with fragmentation-needed where that is asked for") \
	X(UNPUBLISHED, "for a port of a task, and not published here") \
	X(NOT_OURS, "a reply through this node whose source is none of its addresses") \
	X(UNSUPPORTED, "a protocol that the VIP or published port does not carry") \
	X(HELPER, "the kernel refused to change the packet") \
	X(NO_CONFIG, "the node is not configured yet") \
	X(ARP_IGNORED, "ARP that asks for nobody else: announcements, replies, other kinds") \
	X(CLOSED_ENDPOINT, "a connection to a task that is about to be stopped: refused with RST")

#define EVENTS(X) \
	X(ARP_ANSWERED, "ARP requests answered") \
	X(PING_ANSWERED, "pings of a VIP answered") \
	X(VIP_CONNECTION, "connections to a VIP, per packet") \
	X(PUBLISHED_CONNECTION, "connections to a published port that came to this node") \
	X(SERVED_CONNECTION, "connections to a published port served by a task of this node") \
	X(MOVED_CONNECTION, "connections that got another client port, since their tuple was taken") \
	X(REPICKED, "connections that got another backend, since theirs was removed") \
	X(RESET_SENT, "RST sent") \
	X(UNREACHABLE_SENT, "port unreachable sent") \
	X(TOO_BIG_SENT, "fragmentation-needed sent") \
	X(FALLBACK, "packets handed to the kernel's VXLAN device to be fragmented") \
	X(OUTSIDE, "packets from tasks to outside the overlay") \
	X(UNKNOWN_VNI, "tunnel packets of networks that are not this data path's, left to the kernel") \
	X(ICMP_TRANSLATED, "ICMP errors translated for a connection") \
	X(HAIRPIN_CONNECTION, "connections of a backend to itself through its VIP") \
	X(MASQUERADED_CONNECTION, "connections to a published port whose backend is behind IPVS") \
	X(NAME_ANSWERED, "DNS questions answered by the program on a task's lo")

#define X(name, text) REASON_##name,
enum reason { REASONS(X) REASON_COUNT };
#undef X
#define X(name, text) EVENT_##name,
enum event { EVENTS(X) EVENT_COUNT };
#undef X

#endif
