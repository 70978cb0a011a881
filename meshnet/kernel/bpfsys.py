"""The bpf(2) system call by ctypes: one function per command, file descriptors and bytes in, bytes out.

Every function raises OSError with the kernel's errno; the classes of `meshnet.kernel.bpf` give them meaning.
Attribute layouts follow `union bpf_attr` of include/uapi/linux/bpf.h (Linux 6.1).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}.get(platform.machine(), 280)
_LIBC = ctypes.CDLL(None, use_errno=True)

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY = 0, 1, 2, 3, 4
OBJ_PIN, OBJ_GET, PROG_ATTACH, PROG_DETACH, PROG_TEST_RUN = 6, 7, 8, 9, 10
PROG_GET_FD_BY_ID, GET_INFO, PROG_QUERY = 13, 15, 16
LOOKUP_BATCH, UPDATE_BATCH, DELETE_BATCH = 24, 26, 27
ENABLE_STATS = 32
_COUNT = 32  # where a batch's number of entries is in the attributes

F_ALLOW_MULTI, F_REPLACE = 2, 4
TCX_INGRESS = 46  # enum bpf_attach_type, kernel 6.6

# enum bpf_attach_type: the hooks of a cgroup that sees addresses of sockets.
CGROUP_HOOKS = {
    "connect4": 10,
    "connect6": 11,
    "sendmsg4": 14,
    "sendmsg6": 15,
    "recvmsg4": 19,
    "recvmsg6": 20,
    "getpeername4": 29,
    "getpeername6": 30,
}


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map; sizes in bytes, `type` is enum bpf_map_type."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class ProgInfo:
    type: int
    id: int
    tag: str
    name: str
    jited: bool
    verified: int  # instructions that the verifier went through (Linux 5.16)


@dataclass(frozen=True, slots=True)
class SkbContext:
    """The fields of `struct __sk_buff` that BPF_PROG_TEST_RUN takes; device indexes are of the caller's namespace."""

    mark: int = 0
    priority: int = 0
    ingress_ifindex: int = 0
    ifindex: int = 0
    cb: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    gso_segs: int = 0
    gso_size: int = 0


@dataclass(frozen=True, slots=True)
class TestRun:
    """What came out: the program's verdict, the packet from its link layer header on, ns per run."""

    __test__ = False

    retval: int
    data: bytes
    duration: int
    context: SkbContext


def _call(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    result = int(_LIBC.syscall(_NUMBER, command, attr, len(attr)))
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def _attr(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    packed = struct.pack("=" + layout, *values)
    return ctypes.create_string_buffer(packed, max(len(packed), 8))


def _at(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, max(len(data), 1))


def map_create(kind: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = "") -> int:
    """A new map; returns its fd. ENOMEM, EPERM, EINVAL as OSError."""
    attr = _buffer(struct.pack("=7I16s", kind, key_size, value_size, max_entries, flags, 0, 0, name.encode()[:15]))
    return _call(MAP_CREATE, attr)


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """The value, `value_size` bytes (per-CPU maps: all CPUs', each rounded up to 8). ENOENT if there is none."""
    key_buffer, value = _buffer(key), ctypes.create_string_buffer(value_size)
    _call(MAP_LOOKUP, _attr("I4xQQQ", fd, _at(key_buffer), _at(value), 0))
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Insert or replace; flags 1 = only if absent (EEXIST), 2 = only if present (ENOENT). E2BIG when full."""
    key_buffer, value_buffer = _buffer(key), _buffer(value)
    _call(MAP_UPDATE, _attr("I4xQQQ", fd, _at(key_buffer), _at(value_buffer), flags))


def map_delete(fd: int, key: bytes) -> None:
    """ENOENT if there is no such entry."""
    key_buffer = _buffer(key)
    _call(MAP_DELETE, _attr("I4xQQQ", fd, _at(key_buffer), 0, 0))


def map_next_key(fd: int, key: bytes | None, key_size: int) -> bytes:
    """The key after `key` (None: the first). ENOENT after the last."""
    key_buffer = _buffer(key) if key is not None else None
    following = ctypes.create_string_buffer(key_size)
    _call(MAP_NEXT_KEY, _attr("I4xQQQ", fd, _at(key_buffer), _at(following), 0))
    return following.raw


def map_lookup_batch(
    fd: int, cursor: bytes | None, count: int, key_size: int, value_size: int
) -> tuple[list[tuple[bytes, bytes]], bytes, bool]:
    """Up to `count` entries after `cursor`: (entries, next cursor, whether that was all).

    ENOSPC: a hash bucket holds more than `count` entries, ask for more at once. EINVAL or ENOTSUPP: this map
    type has no batches in this kernel.
    """
    start = _buffer(cursor) if cursor is not None else None
    following = ctypes.create_string_buffer(max(key_size, 8))
    keys, values = ctypes.create_string_buffer(count * key_size), ctypes.create_string_buffer(count * value_size)
    attr = _attr("QQQQIIQQ", _at(start), _at(following), _at(keys), _at(values), count, fd, 0, 0)
    last = False
    try:
        _call(LOOKUP_BATCH, attr)
    except FileNotFoundError:  # ENOENT: the end was reached, what came before it is valid
        last = True
    (got,) = struct.unpack_from("=I", attr.raw, _COUNT)
    raw_keys, raw_values = keys.raw, values.raw
    entries = [
        (raw_keys[i * key_size : (i + 1) * key_size], raw_values[i * value_size : (i + 1) * value_size])
        for i in range(got)
    ]
    return entries, following.raw, last


def map_update_batch(fd: int, keys: Sequence[bytes], values: Sequence[bytes]) -> int:
    """Inserts or replaces entries, in order, up to the first that is refused; returns how many. Raises nothing: 0 may
    also mean that this map type has no batches in this kernel."""
    key_buffer, value_buffer = _buffer(b"".join(keys)), _buffer(b"".join(values))
    return _batch(UPDATE_BATCH, _attr("QQQQIIQQ", 0, 0, _at(key_buffer), _at(value_buffer), len(keys), fd, 0, 0))


def map_delete_batch(fd: int, keys: Sequence[bytes]) -> int:
    """Deletes entries, in order, up to the first that there is not; returns how many, as `map_update_batch`."""
    key_buffer = _buffer(b"".join(keys))
    return _batch(DELETE_BATCH, _attr("QQQQIIQQ", 0, 0, _at(key_buffer), 0, len(keys), fd, 0, 0))


def _batch(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    (wanted,) = struct.unpack_from("=I", attr.raw, _COUNT)
    try:
        _call(command, attr)
    except OSError:
        (done,) = struct.unpack_from("=I", attr.raw, _COUNT)
        return int(done) if done < wanted else 0  # as it was: the kernel never began
    return int(wanted)


def obj_pin(fd: int, path: str) -> None:
    """Gives a map or program a name in bpffs. EEXIST if the name is taken."""
    name = _buffer(os.fsencode(path) + b"\0")
    _call(OBJ_PIN, _attr("QII", _at(name), fd, 0))


def obj_get(path: str) -> int:
    """The fd of a pinned map or program. ENOENT if nothing is pinned there."""
    name = _buffer(os.fsencode(path) + b"\0")
    return _call(OBJ_GET, _attr("QII", _at(name), 0, 0))


def _info(fd: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _call(GET_INFO, _attr("IIQ", fd, size, _at(buffer)))
    return buffer.raw


def map_info(fd: int) -> MapInfo:
    kind, ident, key, value, entries, flags, name = struct.unpack_from("=6I16s", _info(fd, 64))
    return MapInfo(kind, ident, key, value, entries, flags, name.split(b"\0")[0].decode())


def prog_info(fd: int) -> ProgInfo:
    raw = _info(fd, 232)
    kind, ident, tag, jited = struct.unpack_from("=II8sI", raw)
    (verified,) = struct.unpack_from("=I", raw, 216)
    return ProgInfo(kind, ident, tag.hex(), raw[64:80].split(b"\0")[0].decode(), jited > 0, verified)


def prog_runs(fd: int) -> tuple[int, int]:
    """Nanoseconds that a program ran, and how often, while statistics were enabled."""
    time_ns, count = struct.unpack_from("=QQ", _info(fd, 232), 192)
    return time_ns, count


def enable_stats() -> int:
    """Lets the kernel measure all programs' runs as long as the fd that is returned is open (Linux 5.8)."""
    return _call(ENABLE_STATS, _attr("I", 0))


def prog_by_id(ident: int) -> int:
    """The fd of a loaded program. ENOENT if it is gone."""
    return _call(PROG_GET_FD_BY_ID, _attr("III", ident, 0, 0))


def prog_attach(target_fd: int, prog_fd: int, attach_type: int, flags: int, replace_fd: int = 0) -> None:
    _call(PROG_ATTACH, _attr("IIIII", target_fd, prog_fd, attach_type, flags, replace_fd))


def prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    """ENOENT if it is not attached there."""
    _call(PROG_DETACH, _attr("IIII", target_fd, prog_fd, attach_type, 0))


def prog_query(target_fd: int, attach_type: int) -> list[int]:
    """Ids of the programs attached to a cgroup, or to the device of an index, in the order in which they run."""
    room = 64
    ids = ctypes.create_string_buffer(4 * room)
    # Up to the revision that the kernel writes for devices, whether there is room or not.
    attr = _attr("IIIIQIIQQQQ", target_fd, attach_type, 0, 0, _at(ids), room, 0, 0, 0, 0, 0)
    _call(PROG_QUERY, attr)
    (count,) = struct.unpack_from("=I", attr.raw, 24)
    return list(struct.unpack_from(f"={count}I", ids.raw))


_SKB_SIZE = 192
_SKB_MARK, _SKB_PRIORITY, _SKB_CB, _SKB_GSO_SEGS, _SKB_GSO_SIZE = 8, 32, 48, 164, 176


def _pack_skb(context: SkbContext) -> ctypes.Array[ctypes.c_char]:
    raw = ctypes.create_string_buffer(_SKB_SIZE)
    struct.pack_into("=I", raw, _SKB_MARK, context.mark)
    struct.pack_into("=III", raw, _SKB_PRIORITY, context.priority, context.ingress_ifindex, context.ifindex)
    struct.pack_into("=5I", raw, _SKB_CB, *context.cb)
    struct.pack_into("=I", raw, _SKB_GSO_SEGS, context.gso_segs)
    struct.pack_into("=I", raw, _SKB_GSO_SIZE, context.gso_size)
    return raw


def _unpack_skb(raw: bytes) -> SkbContext:
    (mark,) = struct.unpack_from("=I", raw, _SKB_MARK)
    priority, ingress, ifindex = struct.unpack_from("=III", raw, _SKB_PRIORITY)
    (segments,) = struct.unpack_from("=I", raw, _SKB_GSO_SEGS)
    (size,) = struct.unpack_from("=I", raw, _SKB_GSO_SIZE)
    a, b, c, d, e = struct.unpack_from("=5I", raw, _SKB_CB)
    return SkbContext(mark, priority, ingress, ifindex, (a, b, c, d, e), segments, size)


def prog_run(prog_fd: int, data: bytes, context: SkbContext | None = None, repeat: int = 1) -> TestRun:
    """Runs a tc program on a packet (from its link layer header on) without sending it anywhere.

    `context` None leaves the device to the kernel (the loopback of the caller's namespace). EINVAL: the packet
    is shorter than a link layer header, or a device does not exist.
    """
    packet, out = _buffer(data), ctypes.create_string_buffer(len(data) + 4096)
    ctx_in = _pack_skb(context) if context is not None else None
    ctx_out = ctypes.create_string_buffer(_SKB_SIZE)
    size_in = _SKB_SIZE if ctx_in is not None else 0
    head = (prog_fd, 0, len(data), len(out), _at(packet), _at(out), repeat, 0)
    attr = _attr("IIIIQQIIIIQQIII4x", *head, size_in, _SKB_SIZE, _at(ctx_in), _at(ctx_out), 0, 0, 0)
    _call(PROG_TEST_RUN, attr)
    _, retval, _, length = struct.unpack_from("=IIII", attr.raw)
    (duration,) = struct.unpack_from("=I", attr.raw, 36)
    return TestRun(retval, out.raw[:length], duration, _unpack_skb(ctx_out.raw))
