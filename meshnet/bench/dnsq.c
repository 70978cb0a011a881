/* A DNS client: how many questions a name server answers in a second, and how long one waits for one answer.
 *
 * Servers take turns in slices, so that all of them see the same machine. A slice is either a closed loop (one question
 * at a time: every wait is noted) or a window (as many as the window holds are on their way).
 *
 * Reads its job from stdin, writes one line per slice to stdout. Lines of a job:
 *   slice NS               length of a slice
 *   window N               questions on their way in a window slice
 *   query HEX              a question without its identifier; they are asked in turn
 *   server ID NS ADDRESS   where it listens on port 53: path of a namespace, IPv4 address
 * Answers:
 *   rate ROUND ID COUNT NS LOST
 *   wait ROUND ID COUNT NS P50 P99       ns
 *   round ROUND
 * It goes on until it is killed. An answer that does not fit its question, or is an error, ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SERVERS 16
#define QUERIES 1024
#define SIZE 512
#define WINDOW 1024
#define SAMPLES (1 << 20)
#define PATIENCE_MS 1000

struct query {
	unsigned char data[SIZE];
	int length;
};

struct server {
	char id[32];
	int socket;
};

static struct query queries[QUERIES];
static struct server servers[SERVERS];
static int query_count, server_count, window = 100;
static long slice_ns = 50000000;
static unsigned next_query;
static unsigned int waits[SAMPLES];

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void add_query(const char *hex)
{
	struct query *query = &queries[query_count++];
	unsigned value;

	for (; sscanf(hex, "%2x", &value) == 1 && query->length < SIZE - 2; hex += 2)
		query->data[2 + query->length++] = value;
	query->length += 2;
}

static void add_server(const char *id, const char *space, const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53) };
	struct server *server = &servers[server_count++];
	int fd = open(space, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, 0x40000000 /* CLONE_NEWNET */))
		die(space);
	close(fd);
	snprintf(server->id, sizeof(server->id), "%s", id);
	inet_pton(AF_INET, address, &to.sin_addr);
	server->socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (server->socket < 0 || connect(server->socket, (struct sockaddr *)&to, sizeof(to)))
		die(address);
}

static void read_job(void)
{
	char line[2 * SIZE + 64], a[SIZE * 2 + 1], b[256], c[64];

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "slice %ld", &slice_ns) == 1 || sscanf(line, "window %d", &window) == 1)
			continue;
		if (sscanf(line, "query %1024s", a) == 1 && query_count < QUERIES)
			add_query(a);
		else if (sscanf(line, "server %31s %255s %63s", a, b, c) == 3 && server_count < SERVERS)
			add_server(a, b, c);
	}
	if (!query_count || !server_count || window < 1 || window > WINDOW)
		exit(2);
}

static void ask(int socket)
{
	unsigned number = next_query++;
	struct query *query = &queries[number % query_count];

	query->data[0] = number >> 8;
	query->data[1] = number;
	if (send(socket, query->data, query->length, 0) != query->length)
		die("send");
}

/* Takes one answer; 0 if there is none within the patience (or none now), -1 for one of a question given up on. */
static int take(int socket, int wait, unsigned oldest)
{
	unsigned char answer[4096];
	struct pollfd ready = { .fd = socket, .events = POLLIN };
	const struct query *query;
	long length;
	unsigned number;

	length = recv(socket, answer, sizeof(answer), wait ? 0 : MSG_DONTWAIT);
	if (length < 0) {
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			die("recv");
		if (wait || poll(&ready, 1, PATIENCE_MS) <= 0)
			return 0;
		length = recv(socket, answer, sizeof(answer), MSG_DONTWAIT);
	}
	if (length < 12)
		die("short answer");
	number = (next_query & ~0xffffu) | answer[0] << 8 | answer[1];
	if (number >= next_query)
		number -= 0x10000;
	if ((int)(number - oldest) < 0)
		return -1;
	query = &queries[number % query_count];
	if (!(answer[2] & 0x80) || (answer[3] & 15) || length < query->length ||
	    memcmp(answer + 12, query->data + 12, query->length - 12)) {
		fprintf(stderr, "flags %02x%02x are not an answer to question %u\n", answer[2], answer[3],
			number % query_count);
		exit(1);
	}
	return 1;
}

static void rate(int round, const struct server *server)
{
	long start = now(), end = start + slice_ns, at = start, count = 0, lost = 0;
	unsigned oldest = next_query;
	int away = 0;

	while (at < end) {
		for (; away < window; away++)
			ask(server->socket);
		for (int taken = 0; taken < window / 2 && away;) {
			int got = take(server->socket, 0, oldest);

			if (got > 0) {
				away--;
				taken++;
				count++;
			} else if (!got) {
				lost += away;
				away = 0;
				oldest = next_query;
			}
		}
		at = now();
	}
	printf("rate %d %s %ld %ld %ld\n", round, server->id, count, at - start, lost);
	while (away && take(server->socket, 0, oldest))
		away--;
}

static int by_size(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return (x > y) - (x < y);
}

static void closed(int round, const struct server *server)
{
	struct timeval patience = { .tv_usec = 1000 * (PATIENCE_MS - 1) };
	long start = now(), end = start + slice_ns, at = start, count = 0;
	unsigned oldest = next_query;

	setsockopt(server->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	while (at < end && count < SAMPLES) {
		long before = at;
		int got;

		ask(server->socket);
		while ((got = take(server->socket, 1, oldest)) < 0)
			;
		if (!got)
			oldest = next_query;
		at = now();
		waits[count++] = at - before;
	}
	qsort(waits, count, sizeof(*waits), by_size);
	printf("wait %d %s %ld %ld %u %u\n", round, server->id, count, at - start, waits[count / 2],
	       waits[count * 99 / 100]);
}

int main(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	read_job();
	for (int round = 0;; round++) {
		for (int i = 0; i < server_count; i++) {
			rate(round, &servers[i]);
			closed(round, &servers[i]);
		}
		printf("round %d\n", round);
	}
}
