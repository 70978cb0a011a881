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
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include "exchange.h"

#define GROUPS 16

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

static struct group groups[GROUPS];
static int path_count, group_count, cpu, softirqd;
static long slice_ns = 1000000, warm_ns = 20000000, rounds = 100;

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
