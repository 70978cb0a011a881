"""What is kept on disk of each task, so that a restarted agent takes up where the last one was."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from meshnet.codec import from_json, to_json
from meshnet.errors import MeshnetError
from meshnet.files import replace_text
from meshnet.model import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A task as it was last written: what it is, its container's id, and whether it had joined its service."""

    task: Task
    container_id: str
    serving: bool


class TaskDirs:
    """`<run dir>/tasks/<task id>/`, mode 0700, one per task that has not been cleaned up."""

    def __init__(self, run_dir: str) -> None:
        self._root = Path(run_dir) / "tasks"

    def path(self, task_id: str) -> Path:
        return self._root / task_id

    def container(self, task_id: str) -> str:
        """Where the task's container keeps its own state."""
        return str(self.path(task_id) / "container")

    def write(self, kept: Kept) -> None:
        """Replaces the task's file in one step: a kill in the middle leaves the old one."""
        directory = self.path(kept.task.id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        value = {"task": to_json(kept.task), "container": kept.container_id, "serving": kept.serving}
        replace_text(directory / "task.json", json.dumps(value))

    def read_all(self) -> list[Kept]:
        """Every task that can be read; a directory without a whole file is from a start that never happened."""
        found = []
        for file in sorted(self._root.glob("*/task.json")):
            try:
                value = json.loads(file.read_text())
                found.append(Kept(from_json(Task, value["task"]), value["container"], value["serving"]))
            except (ValueError, KeyError, TypeError, OSError, MeshnetError) as error:
                log.warning("%s cannot be read, its task is not taken up: %s", file, error)
        return found

    def remove(self, task_id: str) -> None:
        shutil.rmtree(self.path(task_id), ignore_errors=True)
