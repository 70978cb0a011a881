/* VIPs and published ports at the socket: one translation when a connection is made, nothing per packet.
 *
 * A task's connect() or sendto() to a VIP becomes one to a backend, before there is a packet. What it asked for is
 * shown to it again by getpeername() and recvfrom(). Who may use a VIP: a network namespace that is attached to the
 * VIP's network (`attached`). The node itself uses its published ports the same way: its own namespace, destination
 * 127.0.0.0/8 or one of its addresses.
 *
 * Connected sockets remember in their own storage, which goes with them. An unconnected UDP socket may speak to many
 * VIPs: it keeps one backend per VIP and port in `socket_backends`, and the way back in `socket_origins`.
 * IPv4-mapped addresses of AF_INET6 sockets come in by the v6 hooks, except at sendmsg, where the kernel turns
 * them into IPv4 first. */
#include <linux/in.h>

#include "maps.h"

#define ALLOW 1
#define REFUSE 0
#define ECONNREFUSED 111
#define TRIES 2 /* a set that was swapped between two lookups is found at the second try */

/* Which networks a namespace is attached to: key of `attached`. */
struct attached_key {
	__u64 cookie;
	__u32 vni;
	__u32 unused;
};
_Static_assert(sizeof(struct attached_key) == 16, "attached_key");

/* Address and port as a socket sees them. */
struct peer_name {
	struct address address;
	__be16 port;
	__u16 unused;
};
_Static_assert(sizeof(struct peer_name) == 20, "peer_name");

/* One unconnected socket and one address it speaks to: key of `socket_backends` (the VIP) and of `socket_origins`
 * (the backend). */
struct socket_key {
	__u64 cookie;
	struct peer_name name;
	__u32 unused;
};
_Static_assert(sizeof(struct socket_key) == 32, "socket_key");

/* Where a connected socket was sent, and what it asked for. */
struct translation {
	struct peer_name asked;
	struct peer_name backend;
};
_Static_assert(sizeof(struct translation) == 40, "translation");

/* {cookie of a network namespace, VNI} -> 1. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, struct attached_key);
	__type(value, __u32);
} attached SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct translation);
} translations SEC(".maps");

/* Unconnected UDP: {socket, VIP, port} -> backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct socket_key);
	__type(value, struct peer_name);
} socket_backends SEC(".maps");

/* Unconnected UDP: {socket, backend, port} -> VIP. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct socket_key);
	__type(value, struct peer_name);
} socket_origins SEC(".maps");

inlined int same_name(const struct peer_name *a, const struct peer_name *b)
{
	return a->address.word[0] == b->address.word[0] && a->address.word[1] == b->address.word[1] &&
	       a->address.word[2] == b->address.word[2] && a->address.word[3] == b->address.word[3] &&
	       a->port == b->port;
}

inlined struct peer_name name_v4(const struct bpf_sock_addr *ctx)
{
	struct peer_name name = { .address.word = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 }, .port = ctx->user_port };

	return name;
}

inlined struct peer_name name_v6(const struct bpf_sock_addr *ctx)
{
	struct peer_name name = { .port = ctx->user_port };

	name.address.word[0] = ctx->user_ip6[0];
	name.address.word[1] = ctx->user_ip6[1];
	name.address.word[2] = ctx->user_ip6[2];
	name.address.word[3] = ctx->user_ip6[3];
	return name;
}

inlined void set_v4(struct bpf_sock_addr *ctx, const struct peer_name *name)
{
	ctx->user_ip4 = name->address.word[3];
	ctx->user_port = name->port;
}

inlined void set_v6(struct bpf_sock_addr *ctx, const struct peer_name *name)
{
	ctx->user_ip6[0] = name->address.word[0];
	ctx->user_ip6[1] = name->address.word[1];
	ctx->user_ip6[2] = name->address.word[2];
	ctx->user_ip6[3] = name->address.word[3];
	ctx->user_port = name->port;
}

inlined int is_loopback(const struct address *address)
{
	return address->word[0] == 0 && address->word[1] == 0 && address->word[2] == bpf_htonl(0xffff) &&
	       (address->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

/* The service that a socket means by an address and port, or NULL. */
inlined const struct service *service_of(struct bpf_sock_addr *ctx, const struct peer_name *asked)
{
	const struct service *service = bpf_map_lookup_elem(&services, &asked->address);
	const struct config *node;
	struct published_key key = { .port = asked->port, .protocol = ctx->protocol };

	if (service) {
		struct attached_key member = { .cookie = bpf_get_netns_cookie(ctx), .vni = service->vni };

		return bpf_map_lookup_elem(&attached, &member) ? service : NULL;
	}
	service = bpf_map_lookup_elem(&published, &key);
	node = config_get();
	if (!service || !node || bpf_get_netns_cookie(ctx) != node->node_cookie)
		return NULL;
	if (is_loopback(&asked->address) || bpf_map_lookup_elem(&addresses, &asked->address))
		return service;
	return NULL;
}

/* Whose turn it is. 0 if there is no backend. */
inlined int pick(const struct service *service, const struct peer_name *asked, struct peer_name *backend)
{
	__u32 turn = service->turn, count = service->count;
	__u32 *counter = bpf_map_lookup_elem(&turns, &turn);

	if (!counter || !count)
		return 0;
	if (!backend_of(service, __sync_fetch_and_add(counter, 1) % count, &backend->address))
		return 0;
	backend->port = service->target_port ? service->target_port : asked->port;
	return 1;
}

/* What became of an address: not a service's (UNTOUCHED), a service without backends (REFUSED), or TRANSLATED. */
enum outcome { UNTOUCHED, REFUSED, TRANSLATED };

inlined enum outcome choose(struct bpf_sock_addr *ctx, const struct peer_name *asked, struct peer_name *backend)
{
	for (int i = 0; i < TRIES; i++) {
		const struct service *service = service_of(ctx, asked);

		if (!service)
			return UNTOUCHED;
		if (pick(service, asked, backend))
			return TRANSLATED;
	}
	return REFUSED;
}

inlined int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

separate int on_connect(struct bpf_sock_addr *ctx, struct peer_name *name)
{
	struct translation done = {};
	struct bpf_sock *socket = ctx->sk;

	if (!socket || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return UNTOUCHED;
	done.asked = *name;
	switch (choose(ctx, name, &done.backend)) {
	case REFUSED:
		return REFUSED;
	case UNTOUCHED:
		bpf_sk_storage_delete(&translations, socket); /* of an earlier connect of this socket */
		return UNTOUCHED;
	default:
		break;
	}
	struct translation *kept = bpf_sk_storage_get(&translations, socket, &done, BPF_SK_STORAGE_GET_F_CREATE);

	if (kept)
		*kept = done;
	*name = done.backend;
	return TRANSLATED;
}

/* Whether datagrams may still go to a backend: an endpoint of the network that is not known to be gone. */
inlined int alive(const struct service *service, const struct peer_name *backend)
{
	struct endpoint_key key = { .ip = backend->address, .vni = service->vni };
	const struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &key);

	return endpoint && (endpoint->kind == ENDPOINT_LOCAL || endpoint->kind == ENDPOINT_REMOTE);
}

separate int on_sendmsg(struct bpf_sock_addr *ctx, struct peer_name *name)
{
	struct socket_key key = { .cookie = bpf_get_socket_cookie(ctx), .name = *name };
	const struct service *service = service_of(ctx, name);
	struct peer_name asked = *name, backend = {};
	const struct peer_name *kept;
	enum outcome outcome;

	if (!service)
		return UNTOUCHED;
	kept = bpf_map_lookup_elem(&socket_backends, &key);
	if (kept && alive(service, kept)) {
		backend = *kept;
	} else {
		outcome = choose(ctx, name, &backend);
		if (outcome != TRANSLATED)
			return outcome;
		bpf_map_update_elem(&socket_backends, &key, &backend, BPF_ANY);
	}
	key.name = backend;
	kept = bpf_map_lookup_elem(&socket_origins, &key);
	if (!kept || !same_name(kept, &asked))
		bpf_map_update_elem(&socket_origins, &key, &asked, BPF_ANY);
	*name = backend;
	return TRANSLATED;
}

/* The address that a socket was given for one that it now sees. 0 if it sees what it asked for. */
separate int original(struct bpf_sock_addr *ctx, struct peer_name *name)
{
	struct bpf_sock *socket = ctx->sk;
	const struct translation *done = socket ? bpf_sk_storage_get(&translations, socket, 0, 0) : NULL;
	struct socket_key key = { .name = *name };
	const struct peer_name *asked;

	if (done && same_name(&done->backend, name)) {
		*name = done->asked;
		return 1;
	}
	if (ctx->protocol != IPPROTO_UDP)
		return 0;
	key.cookie = bpf_get_socket_cookie(ctx);
	asked = bpf_map_lookup_elem(&socket_origins, &key);
	if (!asked)
		return 0;
	*name = *asked;
	return 1;
}

SEC("cgroup/connect4")
int meshnet_connect4(struct bpf_sock_addr *ctx)
{
	struct peer_name name = name_v4(ctx);
	int outcome = on_connect(ctx, &name);

	if (outcome == TRANSLATED)
		set_v4(ctx, &name);
	return outcome == REFUSED ? refuse() : ALLOW;
}

SEC("cgroup/connect6")
int meshnet_connect6(struct bpf_sock_addr *ctx)
{
	struct peer_name name = name_v6(ctx);
	int outcome = on_connect(ctx, &name);

	if (outcome == TRANSLATED)
		set_v6(ctx, &name);
	return outcome == REFUSED ? refuse() : ALLOW;
}

SEC("cgroup/sendmsg4")
int meshnet_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct peer_name name = name_v4(ctx);
	int outcome = on_sendmsg(ctx, &name);

	if (outcome == TRANSLATED)
		set_v4(ctx, &name);
	return outcome == REFUSED ? refuse() : ALLOW;
}

SEC("cgroup/sendmsg6")
int meshnet_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct peer_name name = name_v6(ctx);
	int outcome = on_sendmsg(ctx, &name);

	if (outcome == TRANSLATED)
		set_v6(ctx, &name);
	return outcome == REFUSED ? refuse() : ALLOW;
}

SEC("cgroup/recvmsg4")
int meshnet_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct peer_name name = name_v4(ctx);

	if (original(ctx, &name))
		set_v4(ctx, &name);
	return ALLOW;
}

SEC("cgroup/recvmsg6")
int meshnet_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct peer_name name = name_v6(ctx);

	if (original(ctx, &name))
		set_v6(ctx, &name);
	return ALLOW;
}

SEC("cgroup/getpeername4")
int meshnet_getpeername4(struct bpf_sock_addr *ctx)
{
	struct peer_name name = name_v4(ctx);

	if (original(ctx, &name))
		set_v4(ctx, &name);
	return ALLOW;
}

SEC("cgroup/getpeername6")
int meshnet_getpeername6(struct bpf_sock_addr *ctx)
{
	struct peer_name name = name_v6(ctx);

	if (original(ctx, &name))
		set_v6(ctx, &name);
	return ALLOW;
}

char LICENSE[] SEC("license") = "GPL";
