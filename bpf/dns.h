/* Common questions to 127.0.0.11 answered in place: the query becomes its answer and goes on to who asked.
 *
 * What is answered: one question for A or AAAA of class IN, by UDP, with at most an OPT record that has at most one
 * option, for a name in `names`. Everything else is left to user space: names that are not there (unknown, with too
 * many or with IPv6 addresses, too long, written just now, or the map was full), other types, TCP, what is malformed.
 * Both give the same answers; here addresses are rotated, there shuffled. A test holds them together.
 *
 * What is looked up depends on the task's networks. One program serves every task: the number of what a task can look
 * up is the class of its filter, which cls_bpf writes to tc_classid before it runs the program (Linux 4.1). */
#ifndef MESHNET_DNS_H
#define MESHNET_DNS_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include "maps.h"

#define DNS_RESPONSE 0x8000
#define DNS_OPCODE 0x7800
#define DNS_RECURSION_DESIRED 0x0100
#define DNS_RECURSION_AVAILABLE 0x0080
#define DNS_TYPE_A 1
#define DNS_TYPE_AAAA 28
#define DNS_TYPE_OPT 41
#define DNS_CLASS_IN 1
#define DNS_DNSSEC_OK 0x8000
#define DNS_OUR_PAYLOAD 4096 /* MAX_QUERY in meshnet/dns/query.py */

#define DNS_NAME_WORDS 15
#define DNS_NAME_SIZE (8 * DNS_NAME_WORDS)
#define DNS_MAX_ANSWERS 16
#define DNS_MAX_QUERY 512 /* bytes of a message that is looked at here */

#define IP_FRAGMENT 0x3fff /* more fragments, and the offset */

/* A name in wire form and lower case, zeros behind its end, in the words of zone `zone`: key of `names`. */
struct name_key {
	__u64 name[DNS_NAME_WORDS];
	__u32 zone;
	__u32 unused;
};
_Static_assert(sizeof(struct name_key) == 128, "name_key");

/* The networks that a zone is made of, by digest: key of `zones`. */
struct zone_key {
	__u8 networks[16];
};
_Static_assert(sizeof(struct zone_key) == 16, "zone_key");

/* An A record whose owner is the question's name. */
struct name_record {
	__u8 octets[16];
};

/* What a name means. `count` records are repeated all through `records`, so that any of them can be the first
 * and all follow: what is copied into an answer is always one piece. */
struct name_value {
	__u32 count; /* 1..DNS_MAX_ANSWERS */
	__u32 unused;
	struct name_record records[2 * DNS_MAX_ANSWERS - 1];
};
_Static_assert(sizeof(struct name_value) == 504, "name_value");

/* {zone, name} -> its addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_NAMES);
	__type(key, struct name_key);
	__type(value, struct name_value);
} names SEC(".maps");

/* Which networks a zone is made of -> the zone's number. Only the agent reads it, when it starts again. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_NETWORKS);
	__type(key, struct zone_key);
	__type(value, __u32);
} zones SEC(".maps");

struct dns_header {
	__be16 id;
	__be16 flags;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additionals;
};

/* Everything in front of the question's name. */
struct dns_head {
	struct iphdr ip;
	struct udphdr udp;
	struct dns_header dns;
};
_Static_assert(sizeof(struct dns_head) == 40, "dns_head");
#define DNS_NAME_AT (ETH_HLEN + sizeof(struct dns_head))

struct dns_question {
	__be16 type;
	__be16 class;
};

/* The fixed part of an OPT record (RFC 6891 6.1.2); only the length stands at an odd place, and it is read as bytes. */
struct __attribute__((packed)) dns_opt {
	__u8 root;
	__be16 type;
	__be16 payload;
	__u8 extended_rcode;
	__u8 version;
	__be16 flags;
	__be16 length;
};
_Static_assert(sizeof(struct dns_opt) == 11, "dns_opt");

#define DNS_ALL(octet) (0x0101010101010101ull * (octet))
/* The first octet is the lowest. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define dns_word(x) (x)
#else
#define dns_word(x) __builtin_bswap64(x)
#endif

/* Eight octets with A-Z as a-z. Length octets are at most 63 and are left alone. */
inlined __u64 dns_lower(__u64 word)
{
	__u64 low = word & DNS_ALL(0x7f);
	__u64 from_a = low + DNS_ALL(0x80 - 'A'), behind_z = low + DNS_ALL(0x7f - 'Z');

	return word | ((from_a & ~behind_z & ~word & DNS_ALL(0x80)) >> 2);
}

/* Brings the name into the form of the map's keys; returns its length with the final zero, or more than
 * DNS_NAME_SIZE if there is none. Without branches: the verifier would go through each way of a loop.
 *
 * The name ends at the first zero octet. A zero within a label cuts it off there: then it equals no key. */
inlined __u32 dns_fold_name(struct name_key *key)
{
	__u64 alive = ~0ull;
	__u32 length = 1;

	for (int i = 0; i < DNS_NAME_WORDS; i++) {
		__u64 word = dns_word(key->name[i]);
		__u64 zero = (word - DNS_ALL(1)) & ~word & DNS_ALL(0x80) & alive;
		__u64 kept = ((zero & -zero) - 1) & alive; /* what is in front of the first zero; everything without one */

		length += (((kept & DNS_ALL(0x80)) >> 7) * DNS_ALL(1)) >> 56;
		key->name[i] = dns_word(dns_lower(word) & kept);
		alive &= ((zero | -zero) >> 63) - 1;
	}
	return length;
}

/* Whether an OPT record, and nothing else, fills `room` bytes at `at`; DNSSEC OK is then in `dnssec`. */
inlined int dns_opt_only(struct __sk_buff *skb, __u32 at, __u32 room, __be16 *dnssec)
{
	struct dns_opt opt;
	__be16 option[2];
	__u32 length;

	if (bpf_skb_load_bytes(skb, at, &opt, sizeof(opt)))
		return 0;
	length = bpf_ntohs(opt.length);
	if (opt.root || opt.type != bpf_htons(DNS_TYPE_OPT) || opt.version || room != sizeof(opt) + length)
		return 0;
	*dnssec = opt.flags & bpf_htons(DNS_DNSSEC_OK);
	if (length == 0)
		return 1;
	if (bpf_skb_load_bytes(skb, at + sizeof(opt), option, sizeof(option)))
		return 0;
	return length == sizeof(option) + bpf_ntohs(option[1]);
}

/* Head of the query -> head of an answer of `length` bytes of DNS. */
inlined void dns_turn(struct dns_head *head, __u32 length, __u32 count)
{
	__be32 address = head->ip.saddr;
	__be16 port = head->udp.source, total = bpf_htons(length + sizeof(struct iphdr) + sizeof(struct udphdr));
	__u32 sum = (__u16)~head->ip.check + (__u16)~head->ip.tot_len + total; /* RFC 1624 */

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	head->ip.check = ~sum;
	head->ip.tot_len = total;
	head->ip.saddr = head->ip.daddr;
	head->ip.daddr = address;
	head->udp.source = head->udp.dest;
	head->udp.dest = port;
	head->udp.len = bpf_htons(length + sizeof(struct udphdr));
	head->udp.check = 0;
	head->dns.flags = (head->dns.flags & bpf_htons(DNS_RECURSION_DESIRED)) |
			  bpf_htons(DNS_RESPONSE | DNS_RECURSION_AVAILABLE);
	head->dns.answers = bpf_htons(count);
}

/* Whether these headers may begin a query that is answered here. */
inlined int dns_plain(struct __sk_buff *skb, const struct dns_head *head)
{
	return *(const __u8 *)&head->ip == 0x45 && !(head->ip.frag_off & bpf_htons(IP_FRAGMENT)) && !skb->gso_size &&
	       bpf_ntohs(head->ip.tot_len) == skb->len - ETH_HLEN &&
	       bpf_ntohs(head->udp.len) == skb->len - ETH_HLEN - sizeof(struct iphdr) &&
	       !(head->dns.flags & bpf_htons(DNS_RESPONSE | DNS_OPCODE)) && head->dns.questions == bpf_htons(1) &&
	       !head->dns.answers && !head->dns.authorities && !(head->dns.additionals & bpf_htons(~1));
}

/* Answers a UDP packet to 127.0.0.11:53 if it is one of the common questions; whether it did. Until it is sure
 * of that, nothing of the packet has changed.
 *
 * Lengths and indexes are bounded by masks that change nothing: of comparisons 6.1 forgets what they showed when clang
 * copies the register. */
inlined int dns_answer(struct __sk_buff *skb)
{
	struct name_key key = {};
	struct dns_question question;
	const struct name_value *value;
	struct dns_head head;
	__u32 room = skb->len - DNS_NAME_AT, length, end, count = 0;
	__u64 first = 0;
	__be16 dnssec = 0;

	if (skb->len <= DNS_NAME_AT + sizeof(question) || room > DNS_MAX_QUERY - sizeof(struct dns_header))
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &head, sizeof(head)) || !dns_plain(skb, &head))
		return 0;
	length = room < DNS_NAME_SIZE ? room : DNS_NAME_SIZE;
	opaque(length);
	if (bpf_skb_load_bytes(skb, DNS_NAME_AT, &key, ((length - 1) & (sizeof(key) - 1)) + 1))
		return 0;
	length = dns_fold_name(&key);
	if (length > DNS_NAME_SIZE || bpf_skb_load_bytes(skb, DNS_NAME_AT + length, &question, sizeof(question)))
		return 0;
	end = length + sizeof(question);
	if (question.class != bpf_htons(DNS_CLASS_IN))
		return 0;
	if (head.dns.additionals ? !dns_opt_only(skb, DNS_NAME_AT + end, room - end, &dnssec) : room != end)
		return 0;
	key.zone = skb->tc_classid;
	value = bpf_map_lookup_elem(&names, &key);
	if (!value)
		return 0;
	if (question.type == bpf_htons(DNS_TYPE_A)) {
		count = value->count;
		first = ((__u64)bpf_get_prandom_u32() * count) >> 32;
	} else if (question.type != bpf_htons(DNS_TYPE_AAAA)) {
		return 0;
	}

	__u64 answers = count * sizeof(struct name_record);
	__u32 size = DNS_NAME_AT + end + answers + (head.dns.additionals ? sizeof(struct dns_opt) : 0);

	if (bpf_skb_change_tail(skb, size, 0))
		return 0;
	dns_turn(&head, size - ETH_HLEN - sizeof(struct iphdr) - sizeof(struct udphdr), count);
	bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), 0);
	if (answers) {
		opaque(answers);
		answers = ((answers - 1) & (DNS_MAX_ANSWERS * sizeof(struct name_record) - 1)) + 1;
		first &= DNS_MAX_ANSWERS - 1;
		bpf_skb_store_bytes(skb, DNS_NAME_AT + end, &value->records[first], answers, 0);
	}
	if (head.dns.additionals) {
		struct dns_opt opt = {
			.type = bpf_htons(DNS_TYPE_OPT),
			.payload = bpf_htons(DNS_OUR_PAYLOAD),
			.flags = dnssec,
		};

		bpf_skb_store_bytes(skb, DNS_NAME_AT + end + answers, &opt, sizeof(opt), 0);
	}
	count_event(EVENT_NAME_ANSWERED);
	return 1;
}

#endif
