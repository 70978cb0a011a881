"""What is kept on disk of each task, so that a restarted agent takes up where the last one was."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshnet.codec import from_json, to_json
from meshnet.errors import MeshnetError
from meshnet.files import replace_text
from meshnet.model import Task, TaskStatus

log = logging.getLogger(__name__)
FILE = "task.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """A task as it was last written: what it is, its container's id, whether it had joined its service, its last status
    once it has ended, and whether it was being stopped."""

    task: Task
    container_id: str
    serving: bool
    ended: TaskStatus | None = None
    leaving: bool = False

    @property
    def announced(self) -> str:
        """What the other members are to know of it while it runs: a task that leaves gets no new connections again."""
        if not self.serving:
            return "starting"
        return "draining" if self.leaving else "ready"


class TaskDirs:
    """`<run dir>/tasks/<task id>/`, mode 0700, one per task that has not been cleaned up.

    What is left of one that has ended (what it was, what it wrote, how it ended) is in `<run dir>/ended/<task id>/`.
    """

    def __init__(self, run_dir: str) -> None:
        self._root = Path(run_dir) / "tasks"
        self._ended = Path(run_dir) / "ended"

    def path(self, task_id: str) -> Path:
        return self._root / task_id

    def container(self, task_id: str) -> str:
        """Where the task's container keeps its own state."""
        return str(self.path(task_id) / "container")

    def ended_container(self, task_id: str) -> str:
        """Where the container of a task that has ended left its state."""
        return str(self._ended / task_id / "container")

    def write(self, kept: Kept) -> None:
        """Replaces the task's file in one step: a kill in the middle leaves the old one."""
        directory = self.path(kept.task.id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        value: dict[str, Any] = {
            "task": to_json(kept.task),
            "container": kept.container_id,
            "serving": kept.serving,
            "ended": to_json(kept.ended),
            "leaving": kept.leaving,
        }
        replace_text(directory / FILE, json.dumps(value))

    def retire(self, kept: Kept) -> None:
        """Keeps what is left of a task that has ended."""
        self.write(kept)
        self._ended.mkdir(mode=0o700, exist_ok=True)
        os.rename(self.path(kept.task.id), self._ended / kept.task.id)

    def read_all(self) -> list[Kept]:
        """Every task that can be read; a directory without a whole file is from a start that never happened."""
        return _read(self._root)

    def read_ended(self) -> list[Kept]:
        """Every task that has ended and was not forgotten."""
        return _read(self._ended)

    def remove(self, task_id: str) -> None:
        shutil.rmtree(self.path(task_id), ignore_errors=True)

    def forget(self, task_id: str) -> None:
        """Takes away what is left of a task that has ended."""
        shutil.rmtree(self._ended / task_id, ignore_errors=True)


def _read(root: Path) -> list[Kept]:
    found = []
    for file in sorted(root.glob(f"*/{FILE}")):
        try:
            value = json.loads(file.read_text())
            ended = value.get("ended")
            status = from_json(TaskStatus, ended) if ended is not None else None
            task, leaving = from_json(Task, value["task"]), value.get("leaving", False)
            found.append(Kept(task, value["container"], value["serving"], status, leaving))
        except (ValueError, KeyError, TypeError, AttributeError, OSError, MeshnetError) as error:
            log.warning("%s cannot be read, its task is not taken up: %s", file, error)
    return found
