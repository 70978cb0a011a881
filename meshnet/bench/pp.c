/* Client and server in one thread: what a path through the kernel costs on the thread's own CPU clock.
 *
 * The thread holds a client socket in one network namespace and its server's in another. What the client sends goes
 * through all devices, programs and stacks of the path inside the client's system call (softirqs run when it ends), so
 * the thread's clock has the whole path on it, and what other processes do is not on it. Paths take turns in slices of
 * about a millisecond, so that all of them see the same machine.
 *
 * Reads its job from stdin, writes one line per slice to stdout. Lines of a job:
 *   cpu N                  where to run
 *   softirqd PID           ksoftirqd of that CPU: its time is added (0: none)
 *   cgroup DIR             cgroup2 group for the paths that follow, if they are translated at the socket. With several
 *                          groups there is a process in each, on the same CPU, and one at a time has its turn
 *   slice NS, warm NS      length of a slice; how long each path runs before it is measured
 *   rounds N
 *   path ID CLIENT-NS SERVER-NS ADDRESS PORT SERVER-PORT OPERATIONS PID ADDRESSES PORTS
 *                          OPERATIONS: letters of "rbuc" (request/response, bulk, UDP, connect+request+close)
 *                          PID: a process on the path, such as a proxy, whose CPU time belongs to it (0: none)
 *                          ADDRESSES, PORTS: so many from ADDRESS and PORT on; each connect takes another
 * Answers:
 *   ready ID OPERATION OPS        operations in a slice
 *   fail ID OPERATION WHY         the path is left out for this operation
 *   slice ROUND ID OPERATION OPS CPU-NS WALL-NS SWITCHES
 *   round ROUND                   all paths had their turn
 * It goes on until it has all rounds or is killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PATHS 64
#define GROUPS 16
#define STEP 7919 /* a prime: all addresses have their turn, and neighbours not one after the other */
#define REQUEST 100
#define RESPONSE 200
#define BULK (128 * 1024)
#define DATAGRAM 64
#define BUFFER (1 << 20)
#define PATIENCE_MS 2000
#define OPERATIONS 4

static const char letters[OPERATIONS + 1] = "rbuc"; /* request, bulk, udp, connect */

struct path {
	char id[32], server_name[256], operations[8];
	int client_ns, server_ns, port, server_port, pid, group;
	struct sockaddr_in to; /* the first of all */
	long addresses, ports, next;
	int listener, server_udp, client_udp;
	int client[2], server[2]; /* connections of request/response and bulk: what one does to its window stays its own */
	long count[OPERATIONS];   /* operations in a slice, 0: left out */
};

/* Where paths run, and the pipes to the process that is there. */
struct group {
	char directory[512]; /* "": where this process is */
	int ask, answer;
};

/* Whose turn it is; operation < 0: prepare the path. */
struct turn {
	int path, operation;
	long round;
};

static struct path paths[PATHS];
static struct group groups[GROUPS];
static int path_count, group_count, cpu, softirqd;
static long slice_ns = 1000000, warm_ns = 20000000, rounds = 100;
static char buffer[BULK], why[256];

static void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

/* Remembers the reason of a failure; returns -1. */
static int failed(const char *what)
{
	snprintf(why, sizeof(why), "%s: %s", what, strerror(errno));
	return -1;
}

static long clock_ns(clockid_t clock)
{
	struct timespec time;

	if (clock_gettime(clock, &time))
		return 0;
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

/* CPU time of another process (clock ids of processes: include/linux/posix-timers_types.h). */
static long process_ns(int pid)
{
	return pid ? clock_ns(((~(clockid_t)pid) << 3) | 2) : 0;
}

static long switches(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nivcsw;
}

static void enter(int ns)
{
	if (setns(ns, CLONE_NEWNET))
		die("setns: %s", strerror(errno));
}

static int wait_for(int fd, short events)
{
	struct pollfd one = { .fd = fd, .events = events };
	int found = poll(&one, 1, PATIENCE_MS);

	if (found == 0)
		errno = ETIMEDOUT;
	return found > 0 ? 0 : -1;
}

static int receive_all(int fd, long size)
{
	while (size > 0) {
		long got = recv(fd, buffer, size < BULK ? size : BULK, MSG_DONTWAIT);

		if (got > 0) {
			size -= got;
			continue;
		}
		if (got == 0)
			errno = ECONNRESET;
		if (got == 0 || errno != EAGAIN || wait_for(fd, POLLIN))
			return failed("receive");
	}
	return 0;
}

/* From one end to the other, however much the sockets take at a time. */
static int transfer(int from, int to, long size)
{
	long sent = 0, received = 0;

	while (received < size) {
		long moved = 0, got;

		if (sent < size) {
			got = send(from, buffer, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (got < 0 && errno != EAGAIN)
				return failed("send");
			if (got > 0)
				sent += moved = got;
		}
		got = recv(to, buffer, BULK, MSG_DONTWAIT);
		if (got < 0 && errno != EAGAIN)
			return failed("receive");
		if (got > 0)
			received += got;
		if (got <= 0 && !moved && wait_for(to, POLLIN))
			return failed("bulk");
	}
	return 0;
}

static int exchange(int client, int server)
{
	if (send(client, buffer, REQUEST, MSG_NOSIGNAL) != REQUEST)
		return failed("request");
	if (receive_all(server, REQUEST))
		return -1;
	if (send(server, buffer, RESPONSE, MSG_NOSIGNAL) != RESPONSE)
		return failed("response");
	return receive_all(client, RESPONSE);
}

static int datagram(const struct path *path)
{
	struct sockaddr_in from;
	socklen_t length = sizeof(from);

	if (send(path->client_udp, buffer, DATAGRAM, 0) != DATAGRAM)
		return failed("send");
	while (recvfrom(path->server_udp, buffer, BULK, MSG_DONTWAIT, (void *)&from, &length) < 0)
		if (errno != EAGAIN || wait_for(path->server_udp, POLLIN))
			return failed("datagram");
	if (sendto(path->server_udp, buffer, DATAGRAM, 0, (void *)&from, length) != DATAGRAM)
		return failed("reply");
	while (recv(path->client_udp, buffer, BULK, MSG_DONTWAIT) < 0)
		if (errno != EAGAIN || wait_for(path->client_udp, POLLIN))
			return failed("reply");
	return 0;
}

static void tune(int fd)
{
	int one = 1, size = BUFFER;

	/* Fixed buffers: the kernel's own tuning would change what a slice costs while it is measured. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
}

static int accept_one(const struct path *path)
{
	int fd;

	while ((fd = accept4(path->listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
		if (errno != EAGAIN || wait_for(path->listener, POLLIN))
			return failed("accept");
	return fd;
}

/* Where the next connection of a path goes. */
static struct sockaddr_in next_of(struct path *path)
{
	struct sockaddr_in to = path->to;
	long number = path->next++ * STEP;

	to.sin_addr.s_addr = htonl(ntohl(to.sin_addr.s_addr) + number % path->addresses);
	to.sin_port = htons(ntohs(to.sin_port) + number % path->ports);
	return to;
}

/* A connection, both ends. The caller is in the client's namespace. */
static int join(struct path *path, int *client, int *server, int tuned)
{
	struct sockaddr_in to = next_of(path);
	struct timeval patience = { .tv_sec = PATIENCE_MS / 1000 };

	*client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*client < 0)
		return failed("socket");
	setsockopt(*client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)); /* connect() too */
	if (tuned)
		tune(*client);
	if (connect(*client, (void *)&to, sizeof(to))) {
		failed("connect");
		close(*client);
		return -1;
	}
	*server = accept_one(path);
	if (*server < 0) {
		close(*client);
		return -1;
	}
	if (tuned)
		tune(*server);
	return 0;
}

static int connection(struct path *path)
{
	int client, server, result;

	if (join(path, &client, &server, 0))
		return -1;
	result = exchange(client, server);
	close(client); /* first, so that TIME_WAIT is the client's */
	close(server);
	return result;
}

static int operate(struct path *path, int operation)
{
	switch (operation) {
	case 0:
		return exchange(path->client[0], path->server[0]);
	case 1:
		return transfer(path->client[1], path->server[1], BULK);
	case 2:
		return datagram(path);
	default:
		return connection(path);
	}
}

/* The server of an earlier path of this process in the same namespace and port serves this one too. */
static int share_server(struct path *path)
{
	for (const struct path *other = paths; other < path; other++) {
		if (!other->listener || other->group != path->group || other->server_port != path->server_port ||
		    strcmp(other->server_name, path->server_name))
			continue;
		path->listener = other->listener;
		path->server_udp = other->server_udp;
		return 1;
	}
	return 0;
}

static int open_server(struct path *path)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(path->server_port) };
	int one = 1;

	if (share_server(path))
		return 0;
	enter(path->server_ns);
	path->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	path->server_udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	setsockopt(path->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(path->listener, (void *)&here, sizeof(here)) || listen(path->listener, 64) ||
	    bind(path->server_udp, (void *)&here, sizeof(here)))
		return failed("server");
	return 0;
}

static int open_client(struct path *path, int operation)
{
	enter(path->client_ns);
	if (operation < 2)
		return join(path, &path->client[operation], &path->server[operation], 1);
	if (operation == 2) {
		path->client_udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (connect(path->client_udp, (void *)&path->to, sizeof(path->to)))
			return failed("connect");
	}
	return 0;
}

/* Runs a path until it is warm, and finds how many operations a slice has. */
static int calibrate(struct path *path, int operation)
{
	long began = clock_ns(CLOCK_MONOTONIC), best = 0, total = 0, batch = 8;

	while (total < 4 || clock_ns(CLOCK_MONOTONIC) - began < warm_ns) {
		long before = clock_ns(CLOCK_MONOTONIC), each;

		for (long i = 0; i < batch; i++)
			if (operate(path, operation))
				return -1;
		each = (clock_ns(CLOCK_MONOTONIC) - before) / batch;
		if (!best || each < best)
			best = each;
		total += batch;
	}
	path->count[operation] = best > 0 && slice_ns / best > 1 ? slice_ns / best : 1;
	return 0;
}

static int has(const struct path *path, int operation)
{
	return strchr(path->operations, letters[operation]) != NULL;
}

static void leave_out(struct path *path, int operation)
{
	path->count[operation] = 0;
	printf("fail %s %c %s\n", path->id, letters[operation], why);
}

static void prepare(struct path *path)
{
	int bad = open_server(path);

	for (int operation = 0; operation < OPERATIONS; operation++) {
		if (!has(path, operation))
			continue;
		if (bad || open_client(path, operation) || calibrate(path, operation))
			leave_out(path, operation);
		else
			printf("ready %s %c %ld\n", path->id, letters[operation], path->count[operation]);
		fflush(stdout);
	}
}

static void measure(struct path *path, int operation, long round)
{
	long count = path->count[operation], cpu_ns, wall_ns, others, moved;

	enter(path->client_ns);
	if (operate(path, operation)) { /* one that is not counted brings the path into the caches */
		leave_out(path, operation);
		return;
	}
	moved = switches();
	others = process_ns(softirqd) + process_ns(path->pid);
	wall_ns = clock_ns(CLOCK_MONOTONIC);
	cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	for (long i = 0; i < count; i++) {
		if (operate(path, operation)) {
			leave_out(path, operation);
			return;
		}
	}
	cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
	wall_ns = clock_ns(CLOCK_MONOTONIC) - wall_ns;
	others = process_ns(softirqd) + process_ns(path->pid) - others;
	moved = switches() - moved;
	printf("slice %ld %s %c %ld %ld %ld %ld\n", round, path->id, letters[operation], count, cpu_ns + others, wall_ns,
	       moved);
}

static int open_ns(const char *name)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die("%s: %s", name, strerror(errno));
	return fd;
}

static void add_group(const char *directory)
{
	if (group_count == GROUPS)
		die("more than %d groups", GROUPS);
	snprintf(groups[group_count++].directory, sizeof(groups[0].directory), "%s", directory);
}

static void read_path(const char *line)
{
	char client[256], server[256], address[64];
	struct path *path = &paths[path_count];

	if (path_count == PATHS)
		die("more than %d paths", PATHS);
	if (sscanf(line, "path %31s %255s %255s %63s %d %d %7s %d %ld %ld", path->id, client, server, address,
		   &path->port, &path->server_port, path->operations, &path->pid, &path->addresses, &path->ports) != 10 ||
	    path->addresses < 1 || path->ports < 1)
		die("not a path: %s", line);
	if (!group_count)
		add_group("");
	path->group = group_count - 1;
	path->client_ns = open_ns(client);
	path->server_ns = open_ns(server);
	strcpy(path->server_name, server);
	path->to.sin_family = AF_INET;
	path->to.sin_port = htons(path->port);
	if (inet_pton(AF_INET, address, &path->to.sin_addr) != 1)
		die("not an address: %s", address);
	path_count++;
}

static void join_cgroup(const char *directory)
{
	char file[1024];
	int fd;

	snprintf(file, sizeof(file), "%s/cgroup.procs", directory);
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die("%s: %s", file, strerror(errno));
	close(fd);
}

static void read_job(void)
{
	char line[1024], word[512];

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "cgroup %511s", word) == 1)
			add_group(word);
		else if (strncmp(line, "path ", 5) == 0)
			read_path(line);
		else if (sscanf(line, "cpu %d", &cpu) != 1 && sscanf(line, "softirqd %d", &softirqd) != 1 &&
			 sscanf(line, "slice %ld", &slice_ns) != 1 && sscanf(line, "warm %ld", &warm_ns) != 1 &&
			 sscanf(line, "rounds %ld", &rounds) != 1)
			die("not understood: %s", line);
	}
}

static void pin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("cpu %d: %s", cpu, strerror(errno));
}

static void take(const struct turn *turn)
{
	struct path *path = &paths[turn->path];

	if (turn->operation < 0)
		prepare(path);
	else if (path->count[turn->operation])
		measure(path, turn->operation, turn->round);
}

/* The process of one of several groups: takes its turns until nobody asks any more. */
static void work(const struct group *group, int asked, int answer)
{
	struct turn turn;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (group->directory[0])
		join_cgroup(group->directory);
	while (read(asked, &turn, sizeof(turn)) == sizeof(turn)) {
		take(&turn);
		fflush(stdout);
		if (write(answer, "", 1) != 1)
			break;
	}
	exit(1);
}

static void start(struct group *group)
{
	int asked[2], answered[2], pid;

	if (pipe2(asked, O_CLOEXEC) || pipe2(answered, O_CLOEXEC) || (pid = fork()) < 0)
		die("fork: %s", strerror(errno));
	if (!pid)
		work(group, asked[0], answered[1]);
	close(asked[0]);
	close(answered[1]);
	group->ask = asked[1];
	group->answer = answered[0];
}

static void give(int path, int operation, long round)
{
	struct turn turn = { .path = path, .operation = operation, .round = round };
	const struct group *group = &groups[paths[path].group];
	char done;

	if (group_count == 1)
		take(&turn);
	else if (write(group->ask, &turn, sizeof(turn)) != sizeof(turn) || read(group->answer, &done, 1) != 1)
		die("the process in %s ended", group->directory);
}

int main(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	read_job();
	pin();
	for (int i = 0; i < group_count && group_count > 1; i++)
		start(&groups[i]);
	if (group_count == 1 && groups[0].directory[0])
		join_cgroup(groups[0].directory);
	for (int i = 0; i < path_count; i++)
		give(i, -1, 0);
	for (long round = 0; round < rounds; round++) {
		for (int operation = 0; operation < OPERATIONS; operation++) {
			for (int i = 0; i < path_count; i++) {
				/* Another order each time: who follows whom must not matter. */
				int at = round & 1 ? path_count - 1 - i : i;

				give((at + round / 2) % path_count, operation, round);
			}
		}
		printf("round %ld\n", round);
		fflush(stdout);
	}
	return 0;
}
