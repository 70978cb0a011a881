"""What the OCI runtime is told about a task."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshnet.errors import MeshnetError
from meshnet.sandbox import bundle, rights, users
from meshnet.sandbox.images import HostImage, Image, RootfsImage
from meshnet.sandbox.rootfs import unneeded
from meshnet.sandbox.seccomp import profile
from meshnet.sandbox.spec import ContainerSpec, HealthConfig, Limits, TaskMount, Ulimit, dump, load

SPEC = ContainerSpec(
    id="ab" * 32, name="web.1", image="web", netns="/run/netns/x", cgroup="/cg/x", dir="/run/t", hostname="h"
)
ROOTFS = RootfsImage("/images/web", entrypoint=("/entry",), command=("serve",), env=("A=1", "B=2"))
ROOT = users.User()
PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:44:www:/var/www:/bin/sh\n"
GROUP = "root:x:0:\nwww:x:44:\nssl:x:50:www,other\n"


def spec(**changes: Any) -> ContainerSpec:
    values = {name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__}
    return ContainerSpec(**{**values, **changes})


def config(image: Image = ROOTFS, user: users.User = ROOT, **changes: Any) -> dict[str, Any]:
    return bundle.config(spec(**changes), image, user, "/proc/1/fd/9", "x86_64")


@pytest.mark.parametrize(
    ("command", "args", "words"),
    [
        ((), (), ("/entry", "serve")),
        ((), ("other",), ("/entry", "other")),
        (("/bin/x",), (), ("/bin/x",)),
        (("/bin/x",), ("y",), ("/bin/x", "y")),
    ],
)
def test_command_and_args_replace_as_in_docker(
    command: tuple[str, ...], args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """A command drops the image's entry point and arguments, arguments alone keep the entry point."""
    assert bundle.argv(spec(command=command, args=args), ROOTFS) == words


def test_no_command_anywhere_is_an_error() -> None:
    """An image without a command needs one from the service."""
    with pytest.raises(MeshnetError, match="no command"):
        bundle.argv(SPEC, RootfsImage("/images/empty"))


def test_environment_is_layered() -> None:
    """The service's variables win over the image's, and a bare name removes one."""
    env = bundle.environment(spec(env=("A=9", "B", "C=a=b")), ROOTFS, users.User(home="/h"))
    assert env == [bundle.PATH, "HOSTNAME=h", "HOME=/h", "A=9", "C=a=b"]


def test_a_task_gets_a_containers_rights_and_no_more() -> None:
    """Docker's default capabilities (mask a80425fb), no new privileges, own namespaces, a seccomp profile."""
    made = config()
    process = made["process"]
    assert process["noNewPrivileges"] is True
    assert process["capabilities"]["bounding"] == process["capabilities"]["effective"]
    assert set(process["capabilities"]["bounding"]) == set(rights.USUAL)
    assert len(rights.USUAL) == 14
    assert {"type": "network", "path": "/proc/1/fd/9"} in made["linux"]["namespaces"]
    assert {n["type"] for n in made["linux"]["namespaces"]} == {"mount", "uts", "pid", "ipc", "network"}
    assert made["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"


def test_another_user_holds_no_capability() -> None:
    """Only root starts with capabilities; the others find them nowhere but in the bounding set."""
    held = config(user=users.User(33, 44))["process"]["capabilities"]
    assert held["effective"] == held["permitted"] == []


def test_a_host_image_hides_the_machines_state() -> None:
    """The agent's directory, homes, keys and the cgroup tree are not in a host image's mounts."""
    made = config(HostImage())
    mounts = {mount["destination"]: mount for mount in made["mounts"]}
    for target in ("/run", "/tmp", "/root", "/home", "/var/lib/meshnet"):
        assert mounts[target]["type"] == "tmpfs"
    assert mounts["/sys"]["type"] == "sysfs"
    assert "ro" in mounts["/sys"]["options"]
    assert not any(mount["type"].startswith("cgroup") for mount in made["mounts"])
    assert "/etc/shadow" in made["linux"]["maskedPaths"]
    assert "/run" not in {mount["destination"] for mount in config(ROOTFS)["mounts"]}


@pytest.mark.parametrize(
    "mount",
    [TaskMount("/a", "b"), TaskMount("a", "/b"), TaskMount("/a", "/"), TaskMount("/a", "/b", type="npipe")],
)
def test_a_mount_that_cannot_be_is_refused(mount: TaskMount) -> None:
    """Relative paths, the root and unknown types are named in one line."""
    with pytest.raises(MeshnetError, match="mount"):
        config(mounts=(mount,))


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", users.User(0, 0, (), "/root")),
        ("www", users.User(33, 44, (50,), "/var/www")),
        ("33", users.User(33, 44, (50,), "/var/www")),
        ("www:ssl", users.User(33, 50, (), "/var/www")),
        ("1000:7", users.User(1000, 7, (), "/")),
    ],
)
def test_users_are_looked_up_in_the_image(text: str, user: users.User) -> None:
    """Names and numbers, with and without a group, mean what they mean to Docker."""
    assert users.lookup(text, PASSWD, GROUP) == user


@pytest.mark.parametrize("text", ["nobody-here", "www:nogroup"])
def test_an_unknown_user_is_an_error(text: str) -> None:
    """A name that the image does not have is refused, not run as root."""
    with pytest.raises(MeshnetError, match="no such"):
        users.lookup(text, PASSWD, GROUP)


def test_seccomp_leaves_out_what_reaches_the_machine() -> None:
    """No mount, bpf, module, namespace or device call is in the allow list, and no name is listed twice."""
    rules = profile("x86_64")["syscalls"]
    free = {
        name for rule in rules if "args" not in rule and rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }
    for name in (
        "mount",
        "umount2",
        "bpf",
        "setns",
        "unshare",
        "clone",
        "clone3",
        "mknod",
        "mknodat",
        "init_module",
        "keyctl",
        "ptrace_",
        "open_by_handle_at",
        "io_uring_setup",
        "userfaultfd",
        "perf_event_open",
        "reboot",
    ):
        assert name not in free
    listed = rules[0]["names"]
    assert len(listed) == len(set(listed))


def test_a_spec_survives_the_disk() -> None:
    """An agent that comes back reads the same spec that its predecessor wrote."""
    limits = {
        "ulimits": (Ulimit("core", 0, -1),),
        "limits": Limits(5, 6, 7),
        "groups": ("a",),
        "sysctls": {"net.x": "1"},
    }
    whole = spec(
        **limits, command=("a",), mounts=(TaskMount("/a", "/b", True),), health=HealthConfig(("CMD", "x"), interval=1.5)
    )
    assert load(dump(whole)) == whole
    assert load(dump(SPEC)) == SPEC


def test_a_spec_of_an_earlier_version_is_read() -> None:
    """What was not known when it was written is as by default."""
    new = ("init", "groups", "capability_add", "capability_drop", "ulimits", "sysctls", "oom_score_adj", "limits")
    values = json.loads(dump(SPEC))
    for name in (*new, "shm_size", "own_network"):
        del values[name]
    assert load(json.dumps(values)) == SPEC


def test_rights_and_limits_reach_the_runtime() -> None:
    """Also for what is run inside later as another user, whose process has them too."""
    wanted = spec(
        capability_add=("NET_ADMIN",),
        capability_drop=("ALL",),
        ulimits=(Ulimit("nofile", 5, 6),),
        sysctls={"net.ipv4.ip_forward": "1"},
        oom_score_adj=7,
        shm_size=1 << 20,
    )
    made = bundle.config(wanted, ROOTFS, ROOT, "/n", "x86_64", init="/usr/bin/tini-static")
    inside = bundle.process(("id",), [], ROOT, "/", wanted)
    for process in (made["process"], inside):
        assert process["capabilities"]["effective"] == ["CAP_NET_ADMIN"]
        assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]
        assert process["oomScoreAdj"] == 7
    assert made["process"]["args"] == [bundle.INIT, "--", "/entry", "serve"]
    assert made["linux"]["sysctl"] == {**rights.SYSCTLS, "net.ipv4.ip_forward": "1"}
    mounts = {mount["destination"]: mount for mount in made["mounts"]}
    assert mounts[bundle.INIT]["source"] == "/usr/bin/tini-static"
    assert f"size={1 << 20}" in mounts["/dev/shm"]["options"]
    assert bundle.config(spec(own_network=False), ROOTFS, ROOT, "/n", "x86_64")["linux"]["sysctl"] == {}


def test_more_groups() -> None:
    """By name or number, each once; one that the image does not have is an error."""
    assert users.with_groups(users.User(groups=(50,)), ("www", "7", "ssl"), GROUP).groups == (50, 44, 7)
    with pytest.raises(MeshnetError, match="Unable to find group nosuch"):
        users.with_groups(ROOT, ("nosuch",), GROUP)


def test_a_private_namespace_keeps_only_what_it_needs() -> None:
    """Other namespaces, disks and bpffs are let go; what holds or is below a needed path stays."""
    points = [
        "/",
        "/proc",
        "/sys",
        "/sys/fs/bpf",
        "/run",
        "/run/netns",
        "/run/netns/a",
        "/mnt",
        "/mnt/x",
        "/data",
        "/data/in",
    ]
    assert unneeded(points, ("/proc", "/sys", "/run/meshnet/t", "/data"), ("/data",)) == [
        "/sys/fs/bpf",
        "/run/netns",
        "/run/netns/a",
        "/mnt",
        "/mnt/x",
    ]
