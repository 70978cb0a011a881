/*
 * Lets Linux 6.1's User Mode Linux run on processors with AMX.
 *
 * It saves and restores its processes' registers by PTRACE_{GET,SET}REGSET with a buffer of the size that AVX-512 needs.
 * A kernel takes a set only of full size (arch/x86/kernel/fpu/regset.c, xstateregs_set), and with AMX that is 11 KiB, so
 * the first process dies with "ptrace set fp regs failed, errno = 14". Loaded by LD_PRELOAD, this completes what is
 * set with what the process has.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define NT_X86_XSTATE 0x202

static char whole[65536] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...)
{
	static long (*real)(enum __ptrace_request, int, void *, void *);
	va_list rest;

	va_start(rest, request);
	int pid = va_arg(rest, int);
	void *addr = va_arg(rest, void *);
	void *data = va_arg(rest, void *);
	va_end(rest);

	if (!real)
		real = dlsym(RTLD_NEXT, "ptrace");
	if ((request != PTRACE_GETREGSET && request != PTRACE_SETREGSET) || (long)addr != NT_X86_XSTATE)
		return real(request, pid, addr, data);

	struct iovec all = { whole, sizeof whole };
	struct iovec *part = data;
	long result = real(PTRACE_GETREGSET, pid, addr, &all);

	if (result)
		return result;
	if (part->iov_len > all.iov_len)
		part->iov_len = all.iov_len;
	if (request == PTRACE_GETREGSET) {
		memcpy(part->iov_base, whole, part->iov_len);
		return 0;
	}
	memcpy(whole, part->iov_base, part->iov_len);
	return real(PTRACE_SETREGSET, pid, addr, &all);
}
