"""Programming times and memory as rows of text, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator

from meshnet.bench.scale_result import CHANGES, STEPS, Memory, Programming, Scale

Grid = tuple[str, str, list[tuple[str, ...]]]  # heading, note, and rows, of which the first has the columns' names
_MIB = 1 << 20
_LARGEST = 3  # maps that are named


def lines(scale: Scale) -> Iterator[str]:
    """Everything, line by line."""
    for grid in grids(scale):
        yield from laid_out(grid)
    for line in notes(scale):
        yield f"  {line}"


def laid_out(grid: Grid) -> Iterator[str]:
    """A grid for a terminal."""
    heading, note, rows = grid
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))]
    yield ""
    yield heading
    for row in rows:
        yield "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield f"  {note}"


def grids(scale: Scale) -> tuple[Grid, Grid]:
    """Times, then memory."""
    times: list[tuple[str, ...]] = [("SERVICES", *(what.upper() for what in CHANGES.values()))]
    for services in dict.fromkeys(each.services for each in scale.programming):
        found = {each.change: each for each in scale.programming if each.services == services}
        times.append((f"{services:,}", *(_time(found[change]) if change in found else "-" for change in CHANGES)))
    memory: list[tuple[str, ...]] = [
        ("SERVICES", "MAPS", "OF WHICH", "PROCESS (PSS)", "RESIDENT", "PER SERVICE: MAPS", "PROCESS")
    ]
    memory += map(_memory, scale.memory)
    return (
        (
            "Programming one node: a VIP, a published port and 10 backends each",
            f"wall clock, and CPU time (least to most; of it {' + '.join(STEPS)}); medians. `ok`: the aim is reached",
            times,
        ),
        (
            "Memory of one node",
            "maps as the kernel counts them; the process holds assignments, records, plan and data path, but no gossip",
            memory,
        ),
    )


def _time(found: Programming) -> str:
    steps = " + ".join(f"{found.steps[step]:.3f}" for step in STEPS)
    aim = ""
    if found.aim is not None:
        aim = {True: " ok", False: f" NOT UNDER {found.aim:g} s", None: " ? others had the CPU"}[found.reached]
    return f"{found.wall:.3f} s{aim}, CPU {found.cpu:.3f} s ({found.cpu_least:.3f}-{found.cpu_most:.3f}; {steps})"


def _memory(found: Memory) -> tuple[str, ...]:
    total = sum(found.maps.values())
    largest = sorted(found.maps.items(), key=lambda item: -item[1])[:_LARGEST]
    return (
        f"{found.services:,}",
        f"{total / _MIB:.1f} MiB",
        ", ".join(f"{name} {size / _MIB:.1f}" for name, size in largest),
        f"{found.pss / _MIB:.0f} MiB, {found.pss_before / _MIB:.0f} without",
        f"{found.rss / _MIB:.0f} MiB",
        f"{(total - found.maps_before) / found.services / 1024:.1f} KiB",
        f"{(found.pss - found.pss_before) / found.services / 1024:.0f} KiB",
    )


def notes(scale: Scale) -> Iterator[str]:
    """Maps that had to be larger, and names that did not fit."""
    for found in scale.memory:
        if found.sizes:
            sizes = ", ".join(f"{name}: {size}" for name, size in found.sizes.items())
            yield f"{found.services:,} services need larger maps; in lab.yml: maps: {{{sizes}}}"
    for found in scale.memory:
        if found.left:
            yield (
                f"{found.services:,} services: {found.left:,} names do not fit the map `names`, and are "
                "answered by the tasks' name servers alone"
            )
