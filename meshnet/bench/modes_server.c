/* The server of modes.c, and its health check. */
#include "modes.h"

#define HEAD 200 /* of a bulk answer */
#define PEERS 4096
#define LINGER 1000000000L

struct peer {
	int fd, got, closing;
	long at, size; /* of the answer: sent, and all */
	char in[2048];
};

static struct peer peers[PEERS];
static char small[RESPONSE], large[HEAD + BULK], host[65];

/* A head of exactly `length` bytes for a body of `body` bytes. */
static void head(char *at, int length, int body)
{
	int said = snprintf(at, length, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: keep-alive\r\nX-Fill: ", body);

	memset(at + said, '.', length - said - 4);
	memcpy(at + length - 4, "\r\n\r\n", 4);
}

static void hang_up(struct peer *peer)
{
	close(peer->fd);
	peer->fd = -1;
}

/* Sends what is left of an answer. */
static void answer(int poll, struct peer *peer)
{
	const char *from = peer->size == RESPONSE ? small : large;

	while (peer->at < peer->size) {
		char copy[RESPONSE];
		const char *piece = from + peer->at;
		long length = peer->size - peer->at;

		if (peer->closing && peer->at == 0) { /* the head says so; both words have ten letters */
			memcpy(copy, from, RESPONSE);
			memcpy(strstr(copy, "keep-alive"), "close     ", 10);
			piece = copy;
			length = RESPONSE;
		}
		long sent = send(peer->fd, piece, length, MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN) {
			watch(poll, peer->fd, EPOLLOUT, peer);
			return;
		}
		if (sent <= 0) {
			hang_up(peer);
			return;
		}
		peer->at += sent;
	}
	if (peer->closing) {
		hang_up(peer);
		return;
	}
	peer->at = peer->size = 0;
	watch(poll, peer->fd, EPOLLIN, peer);
}

static void hear(int poll, struct peer *peer)
{
	long got = recv(peer->fd, peer->in + peer->got, sizeof(peer->in) - 1 - peer->got, 0);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0) {
		hang_up(peer);
		return;
	}
	peer->got += got;
	peer->in[peer->got] = 0;
	if (!strstr(peer->in, "\r\n\r\n")) {
		if (peer->got == sizeof(peer->in) - 1)
			hang_up(peer);
		return;
	}
	peer->got = 0;
	peer->closing = ending || strstr(peer->in, "Connection: close");
	peer->size = strncmp(peer->in, "GET /bulk ", 10) ? RESPONSE : HEAD + BULK;
	answer(poll, peer);
}

static void welcome(int poll, int listener)
{
	int fd, one = 1;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct peer *peer = peers;

		while (peer < peers + PEERS && peer->fd >= 0)
			peer++;
		if (peer == peers + PEERS) {
			close(fd);
			continue;
		}
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		*peer = (struct peer){ .fd = fd };
		watch(poll, fd, EPOLLIN, peer);
	}
}

static int busy(void)
{
	for (int i = 0; i < PEERS; i++)
		if (peers[i].fd >= 0)
			return 1;
	return 0;
}

static void prepare_answers(void)
{
	int body;

	gethostname(host, sizeof(host) - 1);
	body = strlen(host) + 1;
	head(small, RESPONSE - body, body);
	memcpy(small + RESPONSE - body, host, body - 1);
	small[RESPONSE - 1] = '\n';
	head(large, HEAD, BULK);
	memset(large + HEAD, 'x', BULK);
	memcpy(large + HEAD, host, body - 1);
	large[HEAD + body - 1] = '\n';
	for (int i = 0; i < PEERS; i++)
		peers[i].fd = -1;
}

int serve(int port)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1, poll = epoll_create1(EPOLL_CLOEXEC);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct epoll_event events[EVENTS];
	long end = 0;

	prepare_answers();
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) || listen(listener, PEERS))
		die("listen");
	watch(poll, listener, EPOLLIN, NULL);
	for (;;) {
		if (ending && !end) { /* what is in the queue was promised an answer */
			welcome(poll, listener);
			close(listener);
			end = now() + LINGER;
		}
		if (end && (!busy() || now() > end))
			return 0;
		int found = epoll_wait(poll, events, EVENTS, 50); /* a signal may come just before it waits */
		for (int i = 0; i < found; i++) {
			struct peer *peer = events[i].data.ptr;

			if (!peer)
				welcome(poll, listener);
			else if (peer->fd >= 0 && peer->size)
				answer(poll, peer);
			else if (peer->fd >= 0)
				hear(poll, peer);
		}
	}
}

int check(int port)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return connect(fd, (struct sockaddr *)&here, sizeof(here)) ? 1 : 0;
}
