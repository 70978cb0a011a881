/* Questions for an A record and the answers to them (RFC 1035, 4.1), as the users of modes.c need them. */
#include "modes.h"

/* Writes a question for a name of one label to `data`, which has room for QUESTION bytes; returns its length. */
int question(unsigned char *data, unsigned short query, const char *name)
{
	int label = (int)strlen(name), length = 12;

	memset(data, 0, QUESTION);
	data[0] = query >> 8, data[1] = query & 255, data[2] = 1, data[5] = 1;
	data[length++] = label;
	memcpy(data + length, name, label);
	length += label + 1;
	data[length + 1] = 1, data[length + 3] = 1;
	return length + 4;
}

/* Where a name that begins at `at` ends. */
static int after_name(const unsigned char *data, int length, int at)
{
	while (at < length && data[at]) {
		if ((data[at] & 0xc0) == 0xc0)
			return at + 2;
		at += data[at] + 1;
	}
	return at + 1;
}

/* The addresses in an answer of `length` bytes, at least 12, and the last one's time to live in seconds; how many. */
int addresses(const unsigned char *data, int length, struct in_addr *found, int most, long *ttl)
{
	int at = after_name(data, length, 12) + 4, answers = data[6] << 8 | data[7], count = 0;

	while (answers-- > 0 && count < most) {
		at = after_name(data, length, at);
		if (at + 10 > length)
			break;
		int size = data[at + 8] << 8 | data[at + 9];
		if (data[at + 1] == 1 && size == 4 && at + 14 <= length) {
			memcpy(&found[count++], data + at + 10, 4);
			*ttl = (long)data[at + 4] << 24 | data[at + 5] << 16 | data[at + 6] << 8 | data[at + 7];
		}
		at += 10 + size;
	}
	return count;
}
