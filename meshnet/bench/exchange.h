/* What goes over a path: its two ends in their namespaces, opened once, and the operations between them, each done from
 * begin to end by the one thread that has both. */
#ifndef MESHNET_EXCHANGE_H
#define MESHNET_EXCHANGE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define PATHS 64
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

static struct path paths[PATHS];
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

#endif
