/* Both ends of `meshnet bench vip-vs-dnsrr`: a small HTTP server, and clients that ask it by name.
 *
 * `task serve PORT` answers GET / with 200 bytes that end in the host's name, and GET /bulk with 128 KiB. After SIGTERM
 * it takes no new connection, answers what comes on open ones with `Connection: close`, and ends with the last of them.
 * `task check PORT` is its health check. `task wait` does nothing until SIGTERM.
 *
 * `task load` is one thread that plays users. It reads commands from stdin:
 *   user ID NAME PORT POLICY KEEP OPERATION LOOP N
 *     POLICY     how long an address is kept: `each` (asks for every connection, and takes the first address), `ttl`
 *                (as the answer says), seconds, or `once:I` (for ever; of all addresses in order the one with this
 *                number, from 0, and over). With `ttl` and seconds the addresses of an answer are taken in turn
 *     KEEP       `keep` (open connections are used again) or `new` (a connection for each request)
 *     OPERATION  `request` or `bulk`
 *     LOOP       `closed`: N connections, each asks as soon as it was answered. `open`: N requests a second, each due
 *                at a time of its own, whatever became of those before it. The times between are random, half to one
 *                and a half of the mean: else clients keep step, and each meets the same backend of a VIP that takes
 *                turns
 *   run MS ID...     these users for so long; what is open stays open
 *   trace MS ID...   the same with nothing remembered and nothing open before, and a line for each request
 * Answers, times in ns of CLOCK_MONOTONIC:
 *   request ID DUE END OUTCOME BACKEND     of a trace. OUTCOME: ok, refused, reset, ended, timeout, unreachable, dns
 *   count ID OPERATIONS ERRORS NS QUESTIONS
 *   wait ID BUCKET:COUNT ...               how long they took, from when they were due (open) or began (closed)
 *   backend ID NAME COUNT
 *   done
 * A request that has no answer after a second has failed. At the end of its input it ends.
 */
#include "modes.h"

volatile sig_atomic_t ending;

static void on_term(int number)
{
	(void)number;
	ending = 1;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_term };

	sigaction(SIGTERM, &action, NULL);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "check"))
		return check(atoi(argv[2]));
	if (argc == 2 && !strcmp(argv[1], "wait")) {
		while (!ending)
			sleep(1);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "load")) {
		signal(SIGTERM, SIG_DFL);
		return load();
	}
	fprintf(stderr, "task serve PORT | task check PORT | task wait | task load\n");
	return 2;
}
