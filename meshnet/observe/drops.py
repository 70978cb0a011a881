"""Drops as they happen: the kernel's and meshnet's own, in the namespaces that somebody looks at.

    with DropTrace(scope) as trace:
        for drop in trace.read(timeout=1.0): ...

The work is done by a process of its own (drop_process.py); this side says what to look at and reads what was seen.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from meshnet.datapath.ebpf import reasons
from meshnet.errors import MeshnetError
from meshnet.kernel import bpfbuild
from meshnet.observe import drop_program
from meshnet.observe.btf import Btf
from meshnet.observe.packet_line import line
from meshnet.observe.settled import is_settled

PYTHON = "/usr/bin/python3"
_BTF = Path("/sys/kernel/btf/vmlinux")
_PROGRAM = Path(__file__).with_name("drop_process.py")
_PATIENCE = 30.0  # s for compiling: well under one here, but it is clang's work
_END = 5.0


@dataclass(frozen=True, slots=True)
class Scope:
    """What to look at. `spaces`: inode of a network namespace -> what to call it.

    With `filtered`, only drops in the namespaces `whole` and of packets from or to `addresses` (IPv4) are wanted.
    """

    spaces: Mapping[int, str]
    filtered: bool = False
    whole: frozenset[int] = frozenset()
    addresses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Drop:
    """A dropped packet. `time`: seconds since 1970. `where`: the namespace's name, `device`: the interface's.

    `reason` is meshnet's own with `own`, else the kernel's; `meaning` says it in words, or the kernel's function.
    `packet` is its headers in one line, `length` its bytes.
    """

    time: float
    where: str
    device: str
    reason: str
    own: bool
    meaning: str
    packet: str
    length: int


@dataclass(slots=True)
class Words:
    """Reasons by number: the kernel's, and meshnet's with their meaning."""

    kernel: Mapping[int, str]
    own: list[tuple[str, str]] = field(default_factory=list)

    def of(self, reason: int, mark: int, function: str) -> tuple[str, bool, str]:
        """Reason, whether it is meshnet's, and its meaning.

        A mark like ours counts only where a tc program dropped, since others can set marks, too.
        """
        name = self.kernel.get(reason, f"reason {reason}")
        number = mark ^ drop_program.OWN_MARK
        if name.startswith("tc_") and 0 < number < len(self.own):
            return self.own[number][0], True, self.own[number][1]
        return name, False, f"in {function}"


class DropTrace:
    """A trace that runs from `__enter__` to `close`. Raises MeshnetError if it cannot run here.

    With `everything`, also of what the kernel frees after it was received (settled.py).
    """

    def __init__(self, scope: Scope, everything: bool = False) -> None:
        self.lost = 0  # drops that came faster than they could be read
        try:
            btf = Btf(_BTF.read_bytes())
            source, kernel = drop_program.source(btf), drop_program.reasons(btf)
        except FileNotFoundError:
            raise MeshnetError("tracing drops needs a kernel with CONFIG_DEBUG_INFO_BTF (Debian's has it)") from None
        except KeyError as error:
            raise MeshnetError(f"this kernel has no {error.args[0]}: tracing drops needs 5.17 or newer") from None
        self._scope = scope
        self._everything = everything
        self._words = Words(kernel, list(reasons.read(bpfbuild.source_dir()).drops.items()))
        if os.geteuid() != 0:
            raise MeshnetError("tracing drops needs root; run it with sudo")
        if shutil.which(PYTHON) is None:
            raise MeshnetError(f"tracing drops needs {PYTHON}: apt-get install python3 python3-bpfcc")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 closed by close()
        self._process = subprocess.Popen(
            [PYTHON, "-I", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for this side, which ends the other
        )
        self._rest = b""
        self._found: list[Drop] = []
        self._tell({"source": source})

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last line says why

    def look_at(self, scope: Scope) -> None:
        """Changes what is looked at, and returns when it is."""
        kinds = {space: 1 if scope.filtered and space not in scope.whole else 2 for space in scope.spaces}
        packed = [int.from_bytes(ipaddress.IPv4Address(ip).packed, "little") for ip in scope.addresses]
        self._tell({"spaces": kinds, "addresses": packed})
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if self._take(1.0):
                self._scope = scope
                return
        raise MeshnetError(f"the drop program was not ready after {_PATIENCE:.0f} s")

    def __enter__(self) -> DropTrace:
        try:
            self.look_at(self._scope)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process; the kernel forgets the program with it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()  # else one that has more to say than a pipe holds would wait for its reader
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _messages(self, timeout: float) -> Iterator[dict[str, Any]]:
        output = self._process.stdout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            if not selector.select(timeout):
                return
        piece = os.read(output.fileno(), 1 << 20)
        if not piece:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            raise MeshnetError(f"the drop program ended: {said[-1] if said else 'without a word'}")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        yield from map(json.loads, lines)

    def _take(self, timeout: float) -> bool:
        """Reads what has come; returns whether an order was carried out. Raises MeshnetError for a complaint."""
        ready = False
        for message in self._messages(timeout):
            if "error" in message:
                raise MeshnetError(message["error"])
            ready |= "ready" in message
            self.lost += message.get("lost", 0)
            if "reason" in message and (self._everything or not self._is_settled(message)):
                self._found.append(self._drop(message))
        return ready

    def read(self, timeout: float = 1.0) -> list[Drop]:
        """What has been dropped since, in order; waits up to `timeout` seconds for something."""
        if not self._found:
            self._take(timeout)
        found, self._found = self._found, []
        return found

    def _is_settled(self, message: dict[str, Any]) -> bool:
        reason = self._words.kernel.get(message["reason"], "")
        data = bytes.fromhex(message["data"])
        return is_settled(reason, message["function"], data, message["protocol"], message["length"])

    def _drop(self, message: dict[str, Any]) -> Drop:
        reason, own, meaning = self._words.of(message["reason"], message["mark"], message["function"])
        return Drop(
            time=message["time"],
            where=self._scope.spaces.get(message["space"], f"namespace {message['space']}"),
            device=message["device"],
            reason=reason,
            own=own,
            meaning=meaning,
            packet=line(bytes.fromhex(message["data"]), message["protocol"], drop_program.VXLAN_PORT),
            length=message["length"],
        )
