"""`meshnet bench scale`: the swarm it makes up, the paths through it, and what it says about times and memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from meshnet.agent.zones import Zones
from meshnet.bench import html, population, prober, report, result, scale, scale_mesh, scale_result
from meshnet.bench.paths import OPERATIONS
from meshnet.bench.population import BACKENDS, DEMO, INGRESS
from meshnet.bench.result import Result
from meshnet.bench.scale_mesh import Site
from meshnet.bench.scale_result import CHANGES, STEPS, Memory, Scale
from meshnet.bench.world import World
from meshnet.datapath.ebpf import tables
from meshnet.datapath.rows import Plan
from meshnet.errors import MeshnetError

SITES = [Site(10, 0, again=True), Site(10, 1), Site(50, 2), Site(1000, 3)]
GROUPS = {site: f"/group/{site.node}" for site in SITES}
FACTS = tables.Facts(node_cookie=1, underlay=2, underlay_mac=bytes(6), node_port=3)


def made(count: int, site: Site = SITES[0]) -> tuple[population.World, Plan]:
    known = population.world(site.place, count)
    return known, population.make_plan(site.place, known, "/run/netns/x")


def test_every_service_has_what_it_should() -> None:
    """Each has a VIP and a published port of its own, and ten backends behind each, all of them elsewhere."""
    _, plan = made(50)
    assert len({row.vip for row in plan.services}) == len({row.port for row in plan.published}) == 50
    behind = [ip for row in plan.services for ip in row.backends] + [
        ip for row in plan.published for ip in row.backends
    ]
    assert len(set(behind)) == len(behind) == 2 * 50 * BACKENDS
    assert {(row.vni, row.ip) for row in plan.remotes} == {
        (vni, ip)
        for vni, backends in (
            *((DEMO, row.backends) for row in plan.services),
            *((INGRESS, row.backends) for row in plan.published),
        )
        for ip in backends
    }


def test_names_are_all_different() -> None:
    """No two tasks share a name: a lab's do not either."""
    known, plan = made(20)
    (zone,) = population.name_rows(Zones(), known, "/run/netns/x", plan).zones
    assert max(len(found) for found in zone.names.values()) == BACKENDS
    assert len(zone.names) == 2 * (2 * 20 + 4 * 20 * BACKENDS)  # with and without the network's name


@pytest.mark.parametrize("count", [1, 100, 2000])
def test_maps_are_large_enough(count: int) -> None:
    """With the sizes that it asks for all fits, also while one more service comes and another's backends change."""
    sizes = population.map_sizes(count, {})
    known, _ = made(count)
    plan = population.make_plan(SITES[0].place, population.more(SITES[0].place, known, count), "")
    contents = tables.tables(plan, FACTS, {})
    for name in ("services", "published", "endpoints"):
        assert len(contents[name]) <= sizes[name]
    assert len(contents["services"]) + len(contents["published"]) <= sizes["turns"]
    assert contents["backends"] == {}
    assert population.map_sizes(count, dict.fromkeys(sizes, 1_000_000)) == {}
    assert set(sizes) <= {*tables.NAMES, "turns"}


def test_changes_are_small() -> None:
    """One service more is one more; a draining backend is missing behind its VIP and its port, and nowhere else: both
    its addresses stay, as ones that take no repeated SYN."""
    known, plan = made(10)
    place = SITES[0].place
    more = population.make_plan(place, population.more(place, known, 10), "/run/netns/x")
    assert set(plan.services) < set(more.services)
    assert len(more.services) == len(more.published) == 11
    fewer = population.make_plan(place, population.changed(place, known, 7), "/run/netns/x")
    left = [row for row in fewer.remotes if row.leaving]
    assert len(left) == 2
    assert {dataclasses.replace(row, leaving=False) for row in left} == set(plan.remotes) - set(fewer.remotes)
    changed = [(new, old) for new, old in zip(fewer.services, plan.services, strict=True) if new != old]
    assert [(len(new.backends), len(old.backends)) for new, old in changed] == [(BACKENDS - 1, BACKENDS)]
    assert sum(new != old for new, old in zip(fewer.published, plan.published, strict=True)) == 1


def test_tables_are_sound() -> None:
    """Ratios are to the fewest services asked in the same manner; all and only a site's own services are asked."""
    for table in scale.tables(SITES, GROUPS):
        rows = {row.key: row for row in table.rows}
        assert len(rows) == len(table.rows)
        assert all(row.baseline == ("10-one" if row.key.endswith("-one") else "10") for row in table.rows)
        asked = [rows[site.key].way.ports * rows[site.key].way.addresses for site in SITES]
        assert asked in ([10, 10, 50, 1000], [100, 100, 500, 10_000])
        for row in table.rows:
            assert set(row.aim) <= set(OPERATIONS)
            assert row.way.group in ("", *GROUPS.values())
        one = [row for row in table.rows if row.key.endswith("-one")]
        assert all(row.way.ports * row.way.addresses == 1 for row in one)
        assert [row.key for row in table.rows if row.aim] == (["1000-one"] if one else [])
        servers = {(row.way.server, row.way.server_port, row.way.group) for row in table.rows}
        assert len(servers) == len(table.rows) or table.key == "published"


def test_the_prober_is_told_where_to_run() -> None:
    """A cgroup is named before the paths that need it, once for all of them, and not at all where none is needed."""
    found = {table.key: table for table in scale.tables(SITES, GROUPS)}
    lines = prober.job(found["socket"], World(), 0).splitlines()
    kinds = [line.split()[0] for line in lines if line.startswith(("path", "cgroup"))]
    assert kinds == ["cgroup", "path", "path"] * 4
    assert [line for line in lines if line.startswith("cgroup")] == [f"cgroup /group/n{n}" for n in range(4)]
    assert "cgroup" not in prober.job(found["packet"], World(), 0)
    assert lines[-1].endswith(" 0 1000 1")


@pytest.mark.parametrize("services", [(), (0,), (-1, 10), (population.MOST + 1,)])
def test_impossible_numbers_are_refused(services: tuple[int, ...]) -> None:
    """What there are no addresses and ports for is said, before anything is made."""
    with pytest.raises(MeshnetError, match="from 1 to 20,000"):
        scale.run_scale(scale.Options(services=services), lambda _: None)


def test_too_many_numbers_are_refused() -> None:
    """More rows than a table can have are refused too, before anything is made."""
    with pytest.raises(MeshnetError, match="9 numbers of services at once are too many: choose 8"):
        scale.run_scale(scale.Options(services=tuple(range(1, 10))), lambda _: None)


def sample(wall: float, cpu: float) -> dict[str, tuple[float, float]]:
    return {step: (wall / len(STEPS), cpu / len(STEPS)) for step in STEPS}


@pytest.mark.parametrize(
    ("wall", "cpu", "reached"), [(0.9, 0.9, True), (1.2, 1.1, False), (2.0, 0.8, None), (1.1, 0.95, False)]
)
def test_an_aim_of_time(wall: float, cpu: float, reached: bool | None) -> None:
    """It is reached by the wall clock; where others had the CPU for much of the time, it is not known."""
    found = scale_result.programming(1000, "all", [sample(wall, cpu)] * 3, 1.0)
    assert found.reached is reached


def test_medians_of_times() -> None:
    """The median counts, and the least and the most are kept."""
    found = scale_result.programming(10, "service", [sample(each, each / 2) for each in (0.1, 0.2, 0.9)])
    assert (found.wall, found.wall_least, found.wall_most) == pytest.approx((0.2, 0.1, 0.9))
    assert (found.cpu, found.cpu_least, found.cpu_most) == pytest.approx((0.1, 0.05, 0.45))
    assert sum(found.steps.values()) == pytest.approx(found.cpu)
    assert found.reached is None


def some_result() -> Result:
    programming = tuple(
        scale_result.programming(1000, change, [sample(0.5, 0.4)], 1.0 if change == "all" else None)
        for change in CHANGES
    )
    memory = Memory(1000, {"endpoints": 3 << 20, "names": 1 << 20}, 1 << 20, 90 << 20, 20 << 20, 99 << 20, {"a": 5}, 7)
    return Result({"kernel": "6.1"}, (), {}, Scale(programming, (memory,)))


def test_results_survive_json(tmp_path: Path) -> None:
    """What is written is read again as the same value."""
    file = tmp_path / "result.json"
    file.write_text(result.dump(some_result()))
    assert result.load(file) == some_result()


def test_report_and_page_have_the_numbers() -> None:
    """Times with their spread and aim, memory in all and per service, larger maps, names that did not fit."""
    page = html.page(some_result(), {})
    lines = "\n".join(report.lines(some_result()))
    for text in (lines, page):
        assert "0.500 s ok, CPU 0.400 s (0.400-0.400; 0.133 + 0.133 + 0.133)" in text
        assert "endpoints 3.0, names 1.0" in text
        assert "90 MiB, 20 without" in text
        assert "3.1 KiB" in text
        assert "maps: {a: 5}" in text
        assert "7 names" in text
    assert "<title>meshnet bench scale</title>" in page
    slow = dataclasses.replace(some_result().scale.programming[0], wall=1.5, cpu=1.5)  # type: ignore[union-attr]
    assert "NOT UNDER 1 s" in "\n".join(report.lines(dataclasses.replace(some_result(), scale=Scale((slow,), ()))))


def test_maps_are_compared_with_the_defaults() -> None:
    """Few services need no larger maps; the most need some."""
    assert scale_mesh.larger_maps(10) == {}
    assert set(scale_mesh.larger_maps(10_000)) == {"services", "published", "turns", "endpoints"}
