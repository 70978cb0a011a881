"""Loading, adopting and replacing BPF objects, on a bpffs directory of the test's own."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError
from meshnet.kernel import bpfbuild, bpfload, bpfsys
from meshnet.kernel.bpf import Map, Objects, SkbContext, ensure_bpffs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
]

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); }
    seen SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u64); }
    runs SEC(".maps");
SEC("tc") int %(name)s(struct __sk_buff *skb)
{
    __u32 key = skb->mark, zero = 0;
    __u64 one = %(value)d;
    __u64 *count = bpf_map_lookup_elem(&runs, &zero);
    if (count)
        *count += 1;
    bpf_map_update_elem(&seen, &key, &one, BPF_ANY);
    skb->mark = key + 1;
    return %(value)d;
}
char LICENSE[] SEC("license") = "GPL";
"""
FRAME = bytes(12) + b"\x08\x00" + bytes(50)


def build(folder: Path, name: str, value: int, source: str = SOURCE) -> Path:
    path = folder / f"{name}.c"
    path.write_text(source % {"name": name, "value": value})
    clang = shutil.which("clang")
    assert clang
    bpfbuild.compile_object(clang, path, path.with_suffix(".o"))
    return path.with_suffix(".o")


@pytest.fixture
def pins() -> Iterator[Path]:
    ensure_bpffs()
    directory = Path(f"/sys/fs/bpf/meshnet_test_{os.getpid()}")
    yield directory
    bpfload.unload(directory)
    assert not directory.exists()


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def test_program_runs_on_a_packet_and_its_maps_are_read(pins: Path, tmp_path: Path) -> None:
    """A loaded program can be run by test_run with a context, and what it wrote is in its pinned maps."""
    with bpfload.load([build(tmp_path, "one", 7)], pins) as objects:
        run = objects.progs["one"].test_run(FRAME, SkbContext(mark=41))
        assert (run.retval, run.data, run.context.mark) == (7, FRAME, 42)
        assert objects.maps["seen"].items() == {u32(41): struct.pack("=Q", 7)}
        per_cpu = objects.maps["runs"].percpu(u32(0))
        assert sum(struct.unpack("=Q", value)[0] for value in per_cpu) == 1


def test_objects_share_their_maps(pins: Path, tmp_path: Path) -> None:
    """Two objects that define the same map get one map between them."""
    with bpfload.load([build(tmp_path, "one", 1), build(tmp_path, "two", 2)], pins) as objects:
        assert sorted(objects.progs) == ["one", "two"]
        objects.progs["one"].test_run(FRAME, SkbContext(mark=1))
        objects.progs["two"].test_run(FRAME, SkbContext(mark=2))
        assert sorted(objects.maps["seen"].items()) == [u32(1), u32(2)]


def test_same_objects_are_adopted(pins: Path, tmp_path: Path) -> None:
    """Loading what is loaded already changes nothing: the same programs, the same maps."""
    path = build(tmp_path, "one", 1)
    with bpfload.load([path], pins) as first, bpfload.load([path], pins) as second:
        assert first.progs["one"].id == second.progs["one"].id
        assert first.maps["seen"].id == second.maps["seen"].id


def test_new_program_replaces_the_old_on_the_same_maps(pins: Path, tmp_path: Path) -> None:
    """A changed object gives a new program, while the maps and their contents stay."""
    with bpfload.load([build(tmp_path, "one", 1)], pins) as first:
        first.progs["one"].test_run(FRAME, SkbContext(mark=5))
        with bpfload.load([build(tmp_path, "one", 9)], pins) as second:
            assert second.maps["seen"].id == first.maps["seen"].id
            assert second.maps["seen"].get(u32(5)) == struct.pack("=Q", 1)
            assert second.progs["one"].test_run(FRAME).retval == 9
    assert sorted(path.name.split("_")[0] for path in pins.iterdir()) == ["loaded", "maps", "progs"]


def test_removed_program_loses_its_pin(pins: Path, tmp_path: Path) -> None:
    """A program that the new objects do not have is no longer pinned."""
    bpfload.load([build(tmp_path, "one", 1), build(tmp_path, "two", 1)], pins).close()
    with bpfload.load([build(tmp_path, "two", 1)], pins) as objects:
        assert list(objects.progs) == ["two"]


def test_killed_loader_is_repaired(pins: Path, tmp_path: Path) -> None:
    """What a loader killed half-way left behind is cleared away, and its maps are taken over."""
    path = build(tmp_path, "one", 1)
    bpfload.load([path], pins).close()
    next(pins.glob("loaded_*")).rmdir()
    (pins / "staging_1" / "progs").mkdir(parents=True)
    with bpfload.load([path], pins) as objects:
        assert objects.progs["one"].test_run(FRAME).retval == 1
    assert not list(pins.glob("staging_*"))


def test_map_size_is_configurable(pins: Path, tmp_path: Path) -> None:
    """A map can be made larger than its object says, and a full map says E2BIG."""
    with bpfload.load([build(tmp_path, "one", 1)], pins, {"seen": 2}) as objects:
        seen = objects.maps["seen"]
        assert seen.max_entries == 2
        seen.update({u32(1): bytes(8), u32(2): bytes(8)})
        with pytest.raises(OSError, match="Argument list too long"):
            seen.set(u32(3), bytes(8))
        objects.progs["one"].test_run(FRAME)


def test_map_grows_with_its_entries(pins: Path, tmp_path: Path) -> None:
    """Loading again with another size keeps the entries; a size that is too small for them is refused."""
    path = build(tmp_path, "one", 1)
    with bpfload.load([path], pins) as objects:
        objects.maps["seen"].update({u32(i): bytes(8) for i in range(4)})
    with bpfload.load([path], pins, {"seen": 8}) as objects:
        assert objects.maps["seen"].max_entries == 8
        assert len(objects.maps["seen"].items()) == 4
        objects.progs["one"].test_run(FRAME, SkbContext(mark=9))
        assert len(objects.maps["seen"].items()) == 5
    with pytest.raises(MeshnetError, match="map seen holds too many entries for a size of 2"):
        bpfload.load([path], pins, {"seen": 2})
    with pytest.raises(MeshnetError, match="no map is called sean; there are runs, seen"):
        bpfload.load([path], pins, {"sean": 2})


def test_refused_program_gives_one_line(pins: Path, tmp_path: Path) -> None:
    """A program that the verifier refuses is reported in one line that names object, program and reason."""
    endless = SOURCE.replace("return %(value)d;", "return *(int *)(long)skb->data;")
    with pytest.raises(MeshnetError) as caught:
        bpfload.load([build(tmp_path, "wild", 1, endless)], pins)
    message = str(caught.value)
    assert "wild.o" in message
    assert "program wild" in message
    assert "\n" not in message
    assert not list(pins.glob("staging_*"))


def test_missing_pin_is_said(tmp_path: Path) -> None:
    """Opening what is not pinned raises FileNotFoundError, and a set without pins is empty."""
    with pytest.raises(FileNotFoundError):
        Map.open("/sys/fs/bpf/meshnet_no_such_pin")
    with Objects(tmp_path) as objects:
        assert objects.maps == {}


def test_large_map_is_read_whole(pins: Path, tmp_path: Path) -> None:
    """Reading a map in batches gives every entry, also when there are more than one batch holds."""
    with bpfload.load([build(tmp_path, "one", 1)], pins, {"seen": 20000}) as objects:
        seen = objects.maps["seen"]
        entries = {u32(i): struct.pack("=Q", i) for i in range(9000)}
        seen.update(entries)
        assert seen.items() == entries
        assert set(seen.keys()) == set(entries)
        assert seen.discard(entries) == 9000
        assert seen.items() == {}


def test_what_does_not_fit_is_named(pins: Path, tmp_path: Path) -> None:
    """Of many entries those are returned that there is no room for; what is replaced needs none, and all else is in."""
    with bpfload.load([build(tmp_path, "one", 1)], pins, {"seen": 8}) as objects:
        seen = objects.maps["seen"]
        seen.update({u32(i): bytes(8) for i in range(6)})
        wanted = {u32(i): struct.pack("=Q", i) for i in (7, 8, 9, 3, 10, 5)}
        assert seen.put(wanted) == {u32(9): errno.E2BIG, u32(10): errno.E2BIG}
        assert [seen.get(u32(i)) for i in (3, 5, 7, 8)] == [struct.pack("=Q", i) for i in (3, 5, 7, 8)]
        with pytest.raises(OSError, match="seen"):
            seen.update(wanted)
        with pytest.raises(ValueError, match="values of 8 bytes"):
            seen.put({u32(1): bytes(4)})
        with pytest.raises(ValueError, match="keys of 4 bytes"):
            seen.discard([bytes(3)])


def test_what_is_not_there_is_not_counted(pins: Path, tmp_path: Path) -> None:
    """Deleting many leaves none of them, wherever keys stand among them that the map does not hold."""
    with bpfload.load([build(tmp_path, "one", 1)], pins, {"seen": 100}) as objects:
        seen = objects.maps["seen"]
        seen.update({u32(i): bytes(8) for i in range(50)})
        assert seen.discard([u32(i) for i in (77, 0, 1, 88, 99, *range(2, 50), 66)]) == 50
        assert seen.items() == {}
        assert seen.discard([u32(1)]) == 0


def test_maps_without_batches_are_written_all_the_same(
    pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel has no batches, entries are written and deleted one by one, with the same result."""
    monkeypatch.setattr(bpfsys, "map_update_batch", lambda *_: 0)
    monkeypatch.setattr(bpfsys, "map_delete_batch", lambda *_: 0)
    with bpfload.load([build(tmp_path, "one", 1)], pins, {"seen": 8}) as objects:
        seen = objects.maps["seen"]
        assert seen.put({u32(i): bytes(8) for i in range(9)}) == {u32(8): errno.E2BIG}
        assert seen.discard([u32(i) for i in range(9)]) == 8


def test_bpftool_sees_no_leftovers_of_a_failed_load(pins: Path, tmp_path: Path) -> None:
    """After unload nothing of the directory is left, and unloading again says there was nothing."""
    bpfload.load([build(tmp_path, "one", 1)], pins).close()
    assert bpfload.unload(pins)
    assert not bpfload.unload(pins)
    listed = subprocess.run(["bpftool", "-f", "prog", "show"], capture_output=True, text=True, check=False)
    assert str(pins) not in listed.stdout


def test_programs_are_verified_quickly(pins: Path) -> None:
    """No program costs the verifier more than 100,000 instructions: every node of a lab loads all of them."""
    with bpfload.load(bpfbuild.objects(), pins) as objects:
        costs = {name: program.info.verified for name, program in objects.progs.items()}
    assert costs
    assert {name: cost for name, cost in costs.items() if not 0 < cost < 100_000} == {}
