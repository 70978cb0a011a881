"""What a program inside a task may do, and what it can see of the machine, of its node and of other tasks."""

from __future__ import annotations

import ast

import pytest

from meshnet.errors import MeshnetError
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {"nodes": {"one": {"role": "manager"}}}
EPERM = 1

# Each line: what is tried, as an expression of `call(number, *args)`, which is the errno (0: it worked).
SYSTEM_CALLS = {
    "mount a tmpfs": "libc.mount(b'x', b'/mnt', b'tmpfs', 0, None)",
    "mount bpffs": "libc.mount(b'x', b'/mnt', b'bpf', 0, None)",
    "mount the cgroup tree": "libc.mount(b'x', b'/mnt', b'cgroup2', 0, None)",
    "bind what is mounted": "libc.mount(b'/proc', b'/mnt', None, 4096, None)",
    "write to /sys": "libc.mount(None, b'/sys', None, 32 | 4096, None)",
    "unmount a mask": "libc.umount2(b'/sys/firmware', 2)",
    "bpf(MAP_CREATE)": "libc.syscall(321, 0, bytes(72), 72)",
    "bpf(OBJ_GET)": "libc.syscall(321, 7, bytes(72), 72)",
    "bpf(PROG_GET_NEXT_ID)": "libc.syscall(321, 11, bytes(72), 72)",
    "perf_event_open": "libc.syscall(298, bytes(128), 0, -1, -1, 0)",
    "a user namespace": "libc.unshare(0x10000000)",
    "a network namespace": "libc.unshare(0x40000000)",
    "a mount namespace": "libc.unshare(0x00020000)",
    "a namespace by clone": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "setns": "libc.setns(os.open('/proc/1/ns/net', 0), 0)",
    "load a module": "libc.syscall(175, b'', 0, b'')",
    "keyctl": "libc.syscall(250, 0, -3, 0)",
    "open by handle": "libc.syscall(304, -100, bytes(16), 0)",
    "a disk's node": "libc.mknod(b'/tmp/disk', 0o60600, 0x0801)",
    "the clock": "libc.settimeofday(bytes(16), None)",
    "reboot": "libc.reboot(0)",
    "chroot's way out": "libc.pivot_root(b'/', b'/')",
    "swapoff": "libc.swapoff(b'/nothing')",
    "another's address": "ioctl(0x8916)",
    "promiscuity": "ioctl(0x8914)",
}
PROGRAM = """
import ctypes, fcntl, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def ioctl(request):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, request, b"eth0".ljust(16, bytes(1)) + bytes(24))
    return 0
found = {}
for name, expression in TRIED.items():
    ctypes.set_errno(0)
    try:
        worked = eval(expression) >= 0
        found[name] = 0 if worked else ctypes.get_errno()
    except (OSError, AttributeError) as error:
        found[name] = getattr(error, "errno", None) or -1
print(found)
"""


@pytest.fixture(scope="module")
def tasks(lab: LabUnderTest) -> LabUnderTest:
    lab.network("n")
    lab.service("mallory", "alpine", "sleep", "1000000", networks=["n"])
    lab.service("victim", "alpine", "sh", "-c", "exec sleep 31415926", networks=["n"])
    return lab


def python(lab: LabUnderTest, program: str) -> str:
    return lab.task("mallory.1").out(["/usr/bin/python3", "-c", program])


def test_system_calls(tasks: LabUnderTest) -> None:
    """What changes the machine, or looks into it, is refused: mounts, bpf(), namespaces, devices, links, the clock."""
    found = ast.literal_eval(python(tasks, f"TRIED = {SYSTEM_CALLS!r}\n{PROGRAM}"))
    assert {name: errno for name, errno in found.items() if errno != EPERM} == {}


def test_capabilities(tasks: LabUnderTest) -> None:
    """A task has a container's default capabilities less what makes devices useful, and gains none by any program."""
    status = dict(line.split(":\t", 1) for line in tasks.task("mallory.1").out("cat /proc/1/status").splitlines())
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        held = int(status[kind], 16)
        for number in (12, 16, 17, 19, 21, 22, 25, 38, 39):  # net_admin, modules, rawio, ptrace, sys_admin ... bpf
            assert not held >> number & 1, (kind, number)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize(
    "command",
    [
        "ip link set eth0 address 02:42:0a:00:01:99",
        "ip addr add 10.0.1.99/24 dev eth0",
        "ip route add 10.99.0.0/16 dev eth0",
        "ip link add x type dummy",
        "ip neigh add 10.0.1.77 lladdr 02:42:0a:00:01:07 dev eth0",
        "nft add table ip x",
        "tc qdisc del dev lo clsact",
        "tc filter del dev lo egress",
        "sysctl -w net.ipv4.ip_forward=1",
        "echo 1 > /proc/sys/net/ipv4/conf/all/accept_source_route",
        "echo b > /proc/sysrq-trigger",
        "echo 0 > /sys/fs/cgroup/cgroup.procs",
        "bpftool prog list",
        "nsenter -t 1 -n true",
        "unshare -n true",
        "mount -t tmpfs x /mnt",
    ],
)
def test_commands(tasks: LabUnderTest, command: str) -> None:
    """Ordinary ways to take more than one was given fail."""
    assert tasks.task("mallory.1").run(command).returncode != 0


def test_no_trace_of_the_machine(tasks: LabUnderTest) -> None:
    """A task sees no bpffs, no cgroup tree, no agent's directory, no namespaces by name, and no secrets."""
    task = tasks.task("mallory.1")
    assert task.out("ls -A /sys/fs/bpf /sys/fs/cgroup /run | grep -v -e ':$' -e '^mount$' || true").strip() == ""
    assert task.run("ls /run/meshnet /var/run/meshnet /run/netns").returncode != 0
    mounted = {line.split()[2] for line in task.out("cat /proc/self/mounts").splitlines()}
    assert not mounted & {"bpf", "cgroup", "cgroup2", "nsfs", "debugfs", "tracefs", "securityfs"}
    assert task.out("cat /etc/shadow | wc -c") == "0"
    assert task.run("head -c 1 /proc/kcore").stdout == ""
    assert task.run("ls /sys/kernel/debug /sys/kernel/tracing | grep -v : | grep .").returncode != 0
    names = ("agent.sock", "manager.sock", "docker.sock", "settings.json", "lab.json")
    found = task.run(f"find / -xdev {' -o '.join(f'-name {name}' for name in names)}", timeout=50).stdout
    assert not [line for line in found.splitlines() if "meshnet" in line and "/tests/" not in line]


def test_other_processes_are_out_of_sight(tasks: LabUnderTest) -> None:
    """A task sees its own processes alone: not its neighbours', not the agent's."""
    task = tasks.task("mallory.1")
    shown = task.out("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "31415926" not in shown
    assert "mn-agent" not in task.out("cat /proc/[0-9]*/comm")
    assert task.out("cat /proc/1/comm") == "sleep"


def test_descriptors_are_its_own(tasks: LabUnderTest) -> None:
    """Neither the task nor what is run in it inherits a descriptor of agent or command line."""
    task = tasks.task("mallory.1")
    for process in ("1", "self"):
        shown = task.out(f"ls -l /proc/{process}/fd | sed -n 's/.*-> //p'").splitlines()
        kinds = {line.partition(":")[0] for line in shown if not line.startswith("/proc/")}
        assert kinds <= {"pipe", "/dev/null", "/dev/pts/0"}, shown


def test_what_a_task_writes_is_its_own(tasks: LabUnderTest) -> None:
    """A write into the machine's own files is seen by no other task and not by the machine."""
    task, name = tasks.task("mallory.1"), "/etc/meshnet-was-here"
    task.out(f"echo x > {name}")
    assert tasks.task("victim.1").run(f"cat {name}").returncode != 0
    assert tasks.node("one").run(f"cat {name}").returncode != 0


@pytest.mark.parametrize("port", ["4789:80/udp", "7946:80", "7946:80/udp", "2377:80"])
def test_reserved_ports_cannot_be_published(tasks: LabUnderTest, port: str) -> None:
    """The ports that nodes speak to one another on are refused, by the manager itself."""
    number = port.partition(":")[0]
    with pytest.raises(MeshnetError, match=number):
        tasks.service("bad", ports=[port], wait=False)
    assert "bad" not in {service.spec.name for service in tasks.engine.services()}
