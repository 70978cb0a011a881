/* The users of modes.c: one thread that waits for sockets and for what is due. */
#include "modes.h"

#define USERS 64
#define SLOTS 64
#define POOL 4 /* connections that an open loop keeps */
#define ADDRESSES 16
#define NAMES 64
#define PATIENCE 1000000000L
#define OUTPUT (8 << 20)

enum state { FREE, ASKING, CONNECTING, WAITING, CLOSING, IDLE };
enum outcome { OK, REFUSED, RESET, ENDED, TIMEOUT, UNREACHABLE, DNS };

static const char *const outcomes[] = { "ok", "refused", "reset", "ended", "timeout", "unreachable", "dns" };

struct slot {
	struct user *user;
	enum state state;
	int tcp, udp, last; /* `last`: the server closes after this answer */
	unsigned short query;
	long due, began;
	int got, head, size; /* bytes of the answer: so far, its head's, all (0: not known yet) */
	char first[512];     /* its beginning */
};

struct user {
	char id[64], name[64];
	int port, keep, bulk, open, amount;
	long ttl; /* ns that an answer is kept; 0: not at all, -1: as it says, -2: for ever, and the address number `pick` */
	int pick;
	struct in_addr addresses[ADDRESSES];
	int address_count, turn, slot_turn;
	long expires;
	long due, operations, errors, questions;
	unsigned waits[BUCKETS];
	char backends[NAMES][65];
	long answers[NAMES];
	struct slot slots[SLOTS];
};

static struct user users[USERS], *playing[USERS];
static int user_count, playing_count, poller, timer, tracing, over;
static char request_keep[REQUEST + 1], request_close[REQUEST + 1], bulk_keep[REQUEST + 1];
static char output[OUTPUT], waste[256 * 1024];

static void compose(char *into, const char *path, const char *connection)
{
	int said = sprintf(into, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: %s\r\nX-Fill: ", path, connection);

	memset(into + said, '.', REQUEST - said - 4);
	memcpy(into + REQUEST - 4, "\r\n\r\n", 4);
}

static void count_backend(struct user *user, const char *name)
{
	for (int i = 0; i < NAMES; i++) {
		if (!user->backends[i][0])
			snprintf(user->backends[i], sizeof(user->backends[i]), "%s", name);
		if (!strcmp(user->backends[i], name)) {
			user->answers[i]++;
			return;
		}
	}
}

static void drop(struct slot *slot)
{
	if (slot->tcp >= 0)
		close(slot->tcp);
	slot->tcp = -1;
}

/* The backend's name: the first line of the body. */
static void named(const struct slot *slot, char *name)
{
	int length = 0;

	while (slot->head && slot->head + length < slot->got && slot->head + length < (int)sizeof(slot->first) &&
	       length < 64 && slot->first[slot->head + length] != '\n')
		length++;
	memcpy(name, slot->first + slot->head, length);
	name[length] = 0;
}

static void begin(struct slot *slot, long due);

static void finish(struct slot *slot, enum outcome outcome)
{
	struct user *user = slot->user;
	long end = now();
	char name[65];
	int pooled = user->keep && (!user->open || slot < user->slots + POOL);

	named(slot, name);
	if (!over || tracing) {
		if (outcome == OK) {
			user->operations++;
			user->waits[bucket(end - slot->due)]++;
			count_backend(user, name);
		} else {
			user->errors++;
		}
	}
	if (tracing)
		printf("request %s %ld %ld %s %s\n", user->id, slot->due, end, outcomes[outcome], *name ? name : "-");
	if (outcome == DNS) { /* a late answer is nobody's */
		close(slot->udp);
		slot->udp = -1;
	}
	if (outcome != OK || slot->last || !pooled)
		drop(slot);
	slot->state = slot->tcp >= 0 ? IDLE : FREE;
	if (!user->open && !over) {
		if (outcome == OK)
			begin(slot, end);
		else
			slot->due = end + SECOND / 1000; /* a refusal costs nothing: not as fast as it can be refused */
	}
}

static enum outcome reason(int error)
{
	switch (error) {
	case ECONNREFUSED:
		return REFUSED;
	case ECONNRESET:
	case EPIPE:
	case ECONNABORTED:
		return RESET;
	case ETIMEDOUT:
		return TIMEOUT;
	default:
		return UNREACHABLE;
	}
}

static void ask(struct slot *slot)
{
	const struct user *user = slot->user;
	const char *text = user->bulk ? bulk_keep : user->keep ? request_keep : request_close;

	slot->got = slot->head = slot->size = slot->last = 0;
	if (send(slot->tcp, text, REQUEST, MSG_NOSIGNAL) != REQUEST) {
		finish(slot, reason(errno));
		return;
	}
	slot->state = WAITING;
	watch(poller, slot->tcp, EPOLLIN, slot);
}

static void dial(struct slot *slot)
{
	struct user *user = slot->user;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(user->port) };
	int one = 1, which = user->ttl == 0 ? 0 : user->ttl == -2 ? user->pick : user->turn++;

	to.sin_addr = user->addresses[which % user->address_count];
	slot->tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (slot->tcp < 0)
		die("socket");
	setsockopt(slot->tcp, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(slot->tcp, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS) {
		finish(slot, reason(errno));
		return;
	}
	slot->state = CONNECTING;
	watch(poller, slot->tcp, EPOLLOUT, slot);
}

static void look_up(struct slot *slot)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53) };
	unsigned char data[QUESTION];

	if (slot->udp < 0) {
		inet_pton(AF_INET, "127.0.0.11", &to.sin_addr);
		slot->udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (slot->udp < 0 || connect(slot->udp, (struct sockaddr *)&to, sizeof(to)))
			die("name server");
		watch(poller, slot->udp, EPOLLIN, slot);
	}
	slot->query++;
	slot->user->questions++;
	slot->state = ASKING;
	if (send(slot->udp, data, question(data, slot->query, slot->user->name), 0) < 0)
		finish(slot, DNS);
}

static int in_order(const void *one, const void *other)
{
	return memcmp(one, other, sizeof(struct in_addr));
}

/* Takes the addresses of an answer to the user; how many. */
static int learn(struct user *user, const unsigned char *data, int length)
{
	long ttl = 0;

	user->address_count = addresses(data, length, user->addresses, ADDRESSES, &ttl);
	if (user->ttl == -2)
		qsort(user->addresses, user->address_count, sizeof(struct in_addr), in_order);
	user->expires = now() + (user->ttl == -1 ? ttl * SECOND : user->ttl == -2 ? 1L << 60 : user->ttl);
	return user->address_count;
}

static int remembers(const struct user *user, long time)
{
	return user->ttl != 0 && user->address_count && time < user->expires;
}

static void looked_up(struct slot *slot)
{
	unsigned char data[1024];
	long length;

	while ((length = recv(slot->udp, data, sizeof(data), 0)) >= 12) {
		if (slot->state != ASKING || (data[0] << 8 | data[1]) != slot->query)
			continue; /* too late */
		if (remembers(slot->user, now()) || learn(slot->user, data, (int)length))
			dial(slot); /* of several that asked at once the first answer counts: all take its addresses in turn */
		else
			finish(slot, DNS);
	}
}

/* A request in a slot that is free or has an idle connection. */
static void begin(struct slot *slot, long due)
{
	struct user *user = slot->user;

	slot->due = due;
	slot->began = now();
	slot->got = slot->head = 0;
	if (slot->state == IDLE)
		ask(slot);
	else if (remembers(user, slot->began))
		dial(slot);
	else
		look_up(slot);
}

/* The head of an answer is there: how long the whole will be. */
static void read_head(struct slot *slot)
{
	int have = slot->got < (int)sizeof(slot->first) - 1 ? slot->got : (int)sizeof(slot->first) - 1;
	char *end, *length;

	slot->first[have] = 0;
	end = strstr(slot->first, "\r\n\r\n");
	length = strstr(slot->first, "Content-Length: ");
	if (!end || !length)
		return;
	slot->head = (int)(end - slot->first) + 4;
	slot->size = slot->head + atoi(length + 16);
	slot->last = strstr(slot->first, "Connection: close") != NULL;
}

static void hear_answer(struct slot *slot)
{
	for (;;) {
		long got = recv(slot->tcp, waste, sizeof(waste), 0);

		if (got < 0 && errno == EAGAIN)
			return;
		if (got <= 0 && slot->state == IDLE) { /* an idle connection that ends is no error: the next is another */
			drop(slot);
			slot->state = FREE;
			return;
		}
		if (got <= 0) {
			int whole = slot->state == CLOSING;

			finish(slot, whole ? OK : got == 0 ? ENDED : reason(errno));
			return;
		}
		int room = (int)sizeof(slot->first) - 1 - slot->got;
		if (room > 0)
			memcpy(slot->first + slot->got, waste, got < room ? got : room);
		slot->got += (int)got;
		if (!slot->size)
			read_head(slot);
		if (slot->size && slot->got >= slot->size) {
			if (!slot->last || slot->user->keep) {
				finish(slot, OK);
				return;
			}
			slot->state = CLOSING; /* the server closes, so that it has to remember the connection */
		}
	}
}

static void on_tcp(struct slot *slot)
{
	int error = 0;
	socklen_t size = sizeof(error);

	if (slot->state != CONNECTING) {
		hear_answer(slot);
		return;
	}
	getsockopt(slot->tcp, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error)
		finish(slot, reason(error));
	else
		ask(slot);
}

static int pending(const struct slot *slot)
{
	return slot->state != FREE && slot->state != IDLE;
}

/* A slot for the next request of an open loop; NULL if all are taken. */
static struct slot *vacant(struct user *user)
{
	for (int i = 0; user->keep && i < POOL; i++) {
		struct slot *slot = &user->slots[user->slot_turn++ % POOL];

		if (!pending(slot))
			return slot;
	}
	for (int i = user->keep ? POOL : 0; i < SLOTS; i++)
		if (!pending(&user->slots[i]))
			return &user->slots[i];
	return NULL;
}

/* Begins what is due, ends what takes too long; when to look again. */
static long turn(struct user *user, long time, long end)
{
	long next = end;

	for (int i = 0; i < SLOTS; i++) {
		struct slot *slot = &user->slots[i];

		if (pending(slot) && slot->began + PATIENCE <= time)
			finish(slot, slot->state == ASKING ? DNS : TIMEOUT);
		if (pending(slot) && slot->began + PATIENCE < next)
			next = slot->began + PATIENCE;
		if (!user->open && i < user->amount && !pending(slot) && !over) {
			if (slot->due <= time)
				begin(slot, time);
			else if (slot->due < next)
				next = slot->due;
		}
	}
	while (user->open && !over && user->due <= time) {
		struct slot *slot = vacant(user);

		if (!slot)
			break;
		begin(slot, user->due);
		user->due += SECOND / user->amount / 2 + chance() % (SECOND / user->amount);
	}
	return user->open && user->due < next && user->due > time ? user->due : next;
}

static int outstanding(void)
{
	for (int i = 0; i < playing_count; i++)
		for (int k = 0; k < SLOTS; k++)
			if (pending(&playing[i]->slots[k]))
				return 1;
	return 0;
}

static void forget(struct user *user)
{
	user->address_count = 0;
	for (int i = 0; i < SLOTS; i++) {
		drop(&user->slots[i]);
		user->slots[i].state = FREE;
	}
}

static void report(struct user *user, long took)
{
	printf("count %s %ld %ld %ld %ld\nwait %s", user->id, user->operations, user->errors, took, user->questions,
	       user->id);
	for (int i = 0; i < BUCKETS; i++)
		if (user->waits[i])
			printf(" %d:%u", i, user->waits[i]);
	printf("\n");
	for (int i = 0; i < NAMES && user->backends[i][0]; i++)
		printf("backend %s %s %ld\n", user->id, user->backends[i], user->answers[i]);
}

static void play(long ms)
{
	struct epoll_event events[EVENTS];
	long start = now(), end = start + ms * 1000000L;

	over = 0;
	for (int i = 0; tracing && i < user_count; i++)
		forget(&users[i]);
	for (int i = 0; i < playing_count; i++) {
		struct user *user = playing[i];

		user->operations = user->errors = user->questions = 0;
		memset(user->waits, 0, sizeof(user->waits));
		memset(user->backends, 0, sizeof(user->backends));
		memset(user->answers, 0, sizeof(user->answers));
		user->due = start + (user->open ? SECOND / user->amount * i / playing_count : 0);
		for (int k = 0; k < SLOTS; k++)
			user->slots[k].due = 0;
	}
	while (!over || outstanding()) {
		long time = now(), next = end + PATIENCE;

		over = time >= end;
		for (int i = 0; i < playing_count; i++) {
			long when = turn(playing[i], time, over ? end + 2 * PATIENCE : end);

			next = when < next ? when : next;
		}
		struct itimerspec when = { .it_value = { next / SECOND, next % SECOND } };
		timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
		int found = outstanding() || !over ? epoll_wait(poller, events, EVENTS, -1) : 0;
		for (int i = 0; i < found; i++) {
			struct slot *slot = events[i].data.ptr;

			if (!slot)
				continue; /* the timer */
			if (slot->state == ASKING)
				looked_up(slot);
			else if (slot->tcp >= 0)
				on_tcp(slot);
		}
	}
	for (int i = 0; i < playing_count; i++)
		report(playing[i], end - start);
	printf("done\n");
	fflush(stdout);
}

static void add_user(const char *line)
{
	struct user *user = &users[user_count];
	char policy[16], keep[8], operation[16], loop[16];

	if (user_count == USERS || sscanf(line, "user %63s %62s %d %15s %7s %15s %15s %d", user->id, user->name, &user->port,
					  policy, keep, operation, loop, &user->amount) != 8) {
		fprintf(stderr, "what is this: %s", line);
		exit(1);
	}
	user->ttl = !strcmp(policy, "each")   ? 0
		    : !strcmp(policy, "ttl")  ? -1
		    : !strncmp(policy, "once:", 5) ? -2
					      : atol(policy) * SECOND;
	user->pick = user->ttl == -2 ? atoi(policy + 5) : 0;
	user->keep = !strcmp(keep, "keep");
	user->bulk = !strcmp(operation, "bulk");
	user->open = !strcmp(loop, "open");
	for (int i = 0; i < SLOTS; i++)
		user->slots[i] = (struct slot){ .user = user, .tcp = -1, .udp = -1 };
	user_count++;
}

static void choose(char *words)
{
	playing_count = 0;
	for (char *id = strtok(words, " \n"); id; id = strtok(NULL, " \n"))
		for (int i = 0; i < user_count; i++)
			if (!strcmp(users[i].id, id))
				playing[playing_count++] = &users[i];
}

int load(void)
{
	static char line[4096];

	setvbuf(stdout, output, _IOFBF, sizeof(output)); /* who waits for a reader measures the reader */
	compose(request_keep, "/", "keep-alive");
	compose(request_close, "/", "close");
	compose(bulk_keep, "/bulk", "keep-alive");
	poller = epoll_create1(EPOLL_CLOEXEC);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	watch(poller, timer, EPOLLIN, NULL);
	while (fgets(line, sizeof(line), stdin)) {
		int length;
		long ms;

		tracing = !strncmp(line, "trace ", 6);
		if (sscanf(line, "%*[a-z] %ld%n", &ms, &length) == 1) {
			choose(line + length);
			play(ms);
		} else {
			add_user(line);
		}
	}
	return 0;
}
