"""The system calls a task may make: containers' default allow list, as data for the OCI runtime.

What is not listed fails with EPERM. The list is that of Docker's documented default profile for a process without
CAP_SYS_ADMIN and its like, with one rule added: making device files is refused whatever the capabilities, because
no device filter stands behind them here. clone3 fails with ENOSYS, so that libc falls back to clone, whose flags a
filter can read: a task cannot make namespaces.
"""

from __future__ import annotations

from typing import Any

EPERM, ENOSYS = 1, 38
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS | CGROUP | UTS | IPC | USER | PID | NET
_S_IFMT = 0o170000
_AF_ALG, _AF_VSOCK = 38, 40
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}

_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listxattr llistxattr lremovexattr
    lseek _llseek lsetxattr lstat lstat64 mkdir mkdirat name_to_handle_at newfstatat open openat openat2 pipe
    pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
    removexattr rename renameat renameat2 rmdir sendfile sendfile64 setxattr splice stat stat64 statfs statfs64
    statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime
    utimensat utimensat_time64 utimes write writev fanotify_mark chroot
"""
_MEMORY = """
    brk get_mempolicy madvise mbind membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
    mprotect mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
    remap_file_pages set_mempolicy set_mempolicy_home_node shmat shmctl shmdt shmget
"""
_PROCESSES = """
    alarm arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid getpgrp getpid
    getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid
    getuid32 ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
    modify_ldt nanosleep pause pidfd_getfd pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv
    process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsgid32
    setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sigaltstack
    sigprocmask sigreturn sysinfo tgkill times tkill ugetrlimit uname vfork wait4 waitid waitpid
"""
_TIME = """
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 gettimeofday time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getrandom io_cancel io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6
    pselect6_time64 select signalfd signalfd4
"""
_SOCKETS_AND_IPC = """
    accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv
    msgsnd recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send
    sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
ALLOWED = tuple(sorted(" ".join((_FILES, _MEMORY, _PROCESSES, _TIME, _WAITING, _SOCKETS_AND_IPC)).split()))


def _rule(names: tuple[str, ...], *args: tuple[int, str, int, int], errno: int | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    if errno is not None:
        rule.update(action="SCMP_ACT_ERRNO", errnoRet=errno)
    if args:
        rule["args"] = [
            {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": two} for index, op, value, two in args
        ]
    return rule


def profile(machine: str) -> dict[str, Any]:
    """The `linux.seccomp` object of an OCI config for `machine` (as uname prints it)."""
    rules = [_rule(ALLOWED)]
    rules += [_rule(("personality",), (0, "EQ", value, 0)) for value in _PERSONALITIES]
    # Allowed where the masked value equals: plain files, pipes, sockets and directories, never devices.
    kinds = (0, 0o100000, 0o010000, 0o140000, 0o040000)
    rules += [_rule(("mknod",), (1, "MASKED_EQ", _S_IFMT, kind)) for kind in kinds]
    rules += [_rule(("mknodat",), (2, "MASKED_EQ", _S_IFMT, kind)) for kind in kinds]
    rules.append(_rule(("clone",), (0, "MASKED_EQ", _NEW_NAMESPACES, 0)))
    rules.append(_rule(("clone3",), errno=ENOSYS))
    # Ranges, since a family is one number: everything but kernel crypto and sockets of the hypervisor.
    rules.append(_rule(("socket",), (0, "LT", _AF_ALG, 0)))
    rules.append(_rule(("socket",), (0, "EQ", _AF_ALG + 1, 0)))
    rules.append(_rule(("socket",), (0, "GT", _AF_VSOCK, 0)))
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": list(_ARCHITECTURES.get(machine, ())),
        "syscalls": rules,
    }
