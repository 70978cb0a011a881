/* How waits are counted, and by what chance requests of an open loop are due. */
#include "modes.h"

#define SUB 32 /* buckets between two powers of two */

/* Under SUB: itself; above, SUB steps for each power of two. The same as in histogram.py. */
int bucket(long ns)
{
	unsigned long micro = ns < 0 ? 0 : ns / 100; /* tenths of a microsecond */
	int shift = 0, found;

	while (micro >> shift >= 2 * SUB)
		shift++;
	found = shift * SUB + (int)(micro >> shift);
	return found < BUCKETS ? found : BUCKETS - 1;
}

/* Xorshift (Marsaglia): the same numbers in each run. */
unsigned long chance(void)
{
	static unsigned long state = 88172645463325252UL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state >> 1;
}
