/* What both ends of `meshnet bench vip-vs-dnsrr` share; see modes.c. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define REQUEST 100
#define RESPONSE 200
#define BULK (128 * 1024)
#define EVENTS 256
#define QUESTION 128 /* bytes: a label has at most 63 */
#define BUCKETS 2048
#define SECOND 1000000000L

extern volatile sig_atomic_t ending; /* SIGTERM came */

int serve(int port);
int check(int port);
int load(void);
int bucket(long ns);
unsigned long chance(void);
int question(unsigned char *data, unsigned short query, const char *name);
int addresses(const unsigned char *data, int length, struct in_addr *found, int most, long *ttl);

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND + time.tv_nsec;
}

static inline void watch(int poll, int fd, unsigned events, void *what)
{
	struct epoll_event event = { .events = events, .data.ptr = what };

	if (epoll_ctl(poll, EPOLL_CTL_MOD, fd, &event) && epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}
