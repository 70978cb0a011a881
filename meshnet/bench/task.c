/* A task that does nothing, needs no file but itself, and ends when it is told to. */
#include <signal.h>
#include <unistd.h>

static void end(int number)
{
	(void)number;
	_exit(0);
}

int main(void)
{
	signal(SIGTERM, end);
	for (;;)
		pause();
}
