/* The choice of a backend: the ready ones of a service in turn. */
#ifndef MESHNET_SERVICE_H
#define MESHNET_SERVICE_H

#include "deliver.h"

#define PICK_TRIES 4

/* The next backend of `service` that can be sent to. Tries a few: the records of one may not have come yet.
 * Returns 0 or a drop. */
inlined int pick(const struct service *service, struct endpoint_key *backend)
{
	__u32 count = service->count, turn = service->turn, *turns_taken;

	if (!count)
		return DROP(NO_BACKEND);
	turns_taken = bpf_map_lookup_elem(&turns, &turn);
	if (!turns_taken)
		return DROP(NO_BACKEND);
	backend->vni = service->vni;
	for (int i = 0; i < PICK_TRIES; i++) {
		if (!backend_of(service, __sync_fetch_and_add(turns_taken, 1) % count, &backend->ip))
			continue;
		if (reachable(bpf_map_lookup_elem(&endpoints, backend)))
			return 0;
	}
	return DROP(UNKNOWN_BACKEND);
}

/* What a SYN, or another packet that opens, means for a connection that is known: it is over. A repeated SYN of one
 * that never got further keeps its backend. */
inlined bool starts_anew(const struct packet *p, __u32 flags)
{
	return p->protocol == IPPROTO_TCP && (flags & (FLOW_CLOSING | FLOW_ESTABLISHED)) && opens(p);
}

/* The flags of a connection after this packet; written only when they change. */
inlined void follow(const struct packet *p, __u32 *flags)
{
	__u32 now = *flags;

	if (p->protocol != IPPROTO_TCP || p->fragment == LATER)
		return;
	if (!(p->tcp_flags & TCP_SYN))
		now |= FLOW_ESTABLISHED;
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		now |= FLOW_CLOSING;
	if (now != *flags)
		*flags = now;
}

/* Refuses what wants a service without backends: TCP by RST, datagrams by port unreachable. */
inlined int refuse(struct __sk_buff *skb, struct packet *p)
{
	int verdict;

	if (p->protocol != IPPROTO_TCP)
		return port_unreachable(skb, p);
	verdict = reset(skb, p, REASON_NO_BACKEND);
	return verdict ? verdict : back(skb);
}

#endif
