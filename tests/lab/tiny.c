/* Answers one HTTP request per connection as whoami does, and needs no file but itself. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(8000) }, peer;
	int listening = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	char name[64], request[4096], body[128], answer[512];

	setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listening, (void *)&here, sizeof(here)) || listen(listening, 64))
		return 1;
	gethostname(name, sizeof(name));
	for (;;) {
		socklen_t length = sizeof(peer);
		int client = accept(listening, (void *)&peer, &length);

		if (client < 0 || read(client, request, sizeof(request)) <= 0)
			continue;
		snprintf(body, sizeof(body), "I'm %s\n%s\n", name, inet_ntoa(peer.sin_addr));
		length = snprintf(answer, sizeof(answer),
				  "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"
				  "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
		if (write(client, answer, length) < 0)
			return 2;
		close(client);
	}
}
