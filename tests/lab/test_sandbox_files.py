"""Files that a container sees and no disk: secrets and configs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox_bench import made_bench, run

from meshnet.sandbox.memory import MemoryFile

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("crun") is None or shutil.which("conmon") is None, reason="needs crun and conmon"),
]
SECRET = b"only in memory"


def test_files_in_memory(namespaces: Callable[..., str], tmp_path: Path) -> None:
    """They have their place, owner and mode, are read-only, and are nowhere outside: in no file, mount or argument."""
    with made_bench(namespaces, tmp_path) as bench:

        async def body() -> None:
            files = (
                MemoryFile("/run/secrets/password", SECRET, 33, 34, 0o440),
                MemoryFile("/srv/app.conf", b"x=1\n"),
            )
            container = await bench.containers.create(bench.spec("sleep 99"), files)
            await container.start()
            script = "stat -c '%u %g %a' /run/secrets/password; cat /run/secrets/password /srv/app.conf"
            assert await container.exec(("sh", "-c", script), 5) == (0, b"33 34 440\nonly in memoryx=1\n")
            code, _ = await container.exec(("sh", "-c", "echo y > /srv/app.conf"), 5)
            assert code != 0
            kept = [path for path in Path(container.spec.dir).rglob("*") if path.is_file()]
            assert kept
            assert not [path for path in kept if SECRET in path.read_bytes()]
            assert str(container.spec.dir) not in Path("/proc/self/mountinfo").read_text()
            assert SECRET.decode() not in repr(files)
            await container.remove()

        run(bench, body())
