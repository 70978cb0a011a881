/* The few words every file here uses: integer types, helpers, sizes that a build may raise. */
#ifndef MESHNET_H
#define MESHNET_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define inlined static __attribute__((always_inline)) inline
#define separate static __attribute__((noinline))
/* Verified once, for any arguments, instead of at every call in every state that leads there. The verifier lets
 * pointers to structures through only as possibly NULL, and of older kernels none of them as the key of a map. */
#define verified_once __attribute__((noinline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* Keeps clang from folding a length check away before the verifier has seen it. */
#define opaque(x) asm volatile("" : "+r"(x))

/* Table sizes: small enough for fifty nodes on one machine, raised with -D at build time. */
#ifndef MAX_INTERFACES
#define MAX_INTERFACES 1024
#endif
#ifndef MAX_NETWORKS
#define MAX_NETWORKS 1024
#endif
#ifndef MAX_ENDPOINTS
#define MAX_ENDPOINTS 16384
#endif
#ifndef MAX_SERVICES
#define MAX_SERVICES 4096 /* VIPs and published ports together: also the number of turns */
#endif
#ifndef MAX_BACKENDS
#define MAX_BACKENDS 32768
#endif
#ifndef MAX_NAMES
#define MAX_NAMES 16384 /* names of all zones together; what does not fit is answered by user space */
#endif
#ifndef MAX_PEERS
#define MAX_PEERS 1024
#endif
#ifndef MAX_FLOWS
#define MAX_FLOWS 16384
#endif
#ifndef MAX_FRAGMENTS
#define MAX_FRAGMENTS 1024
#endif

#endif
