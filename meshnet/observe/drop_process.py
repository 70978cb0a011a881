"""Compiles the drop program with bcc and prints what it hands over. A process of its own, run by /usr/bin/python3.

bcc costs 120 MiB and is Debian's python3-bpfcc, which only Debian's own Python imports: so this file uses the
standard library alone. It reads JSON lines: {"source"} first, then {"spaces": {number: kind}, "addresses": [number]}
whenever they change; it ends when its input does. It prints {"ready"} once it looks at what it was told, one line per
drop, or {"error"} and ends with 1.

bcc asks for kernel headers, of which this program needs none (its offsets come from BTF). So it gets a directory
with the few files that bcc's own preamble includes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

INSTALL = "apt-get install python3-bpfcc"
_TYPES = "\n".join(
    [
        *(f"typedef __{sign}{bits} {sign}{bits};" for sign in "us" for bits in (8, 16, 32, 64)),
        "typedef unsigned long size_t, uintptr_t;",
        "typedef long ssize_t;",
        "typedef _Bool bool;",
    ]
)
_HEADERS = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/log2.h": _TYPES + "\n",
    "linux/version.h": "#define LINUX_VERSION_CODE 0\n#define KERNEL_VERSION(a, b, c) 0\n",
    "asm/page.h": f"#define PAGE_SIZE {os.sysconf('SC_PAGESIZE')}\n",
    "uapi/linux/bpf.h": "",
    "uapi/linux/if_packet.h": "",
    "uapi/linux/if_ether.h": "",
    "uapi/linux/ptrace.h": "",
}


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def compiled(source: str) -> Any:
    """The loaded program. ImportError without bcc; whatever bcc raises if it cannot compile or load."""
    import bcc

    if not hasattr(bcc, "BPF"):
        raise ImportError("the package bcc here is another one")
    with tempfile.TemporaryDirectory(prefix="meshnet-bcc-") as directory:
        for name, text in _HEADERS.items():
            path = Path(directory, "include", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        os.environ["BCC_KERNEL_SOURCE"] = directory
        own = f"/usr/include/{platform.machine()}-linux-gnu"
        return bcc.BPF(text=source, cflags=["-I/usr/include", f"-I{own}", "-Wno-everything"])


def show(program: Any, event: Any) -> None:
    """Ends the process where nobody reads any more: bcc, which calls this, would go on as long as there are drops."""
    try:
        _show(program, event)
    except BrokenPipeError:
        os._exit(0)


def _show(program: Any, event: Any) -> None:
    say(
        time=time.time(),
        space=event.space,
        reason=event.reason,
        mark=event.mark,
        length=event.length,
        protocol=int.from_bytes(event.protocol.to_bytes(2, sys.byteorder), "big"),
        device=event.device.decode(errors="replace"),
        function=program.ksym(event.location).decode(errors="replace"),
        data=bytes(event.data)[: event.captured].hex(),
    )


def update(table: Any, wanted: dict[int, int]) -> None:
    """Brings a table to what is wanted, with no moment in which a kept entry is missing."""
    have = {key.value for key in table}
    for key in have - set(wanted):
        del table[table.Key(key)]
    for key, value in wanted.items():
        table[table.Key(key)] = table.Leaf(value)


def order(program: Any, line: bytes) -> None:
    message = json.loads(line)
    update(program["spaces"], {int(space): kind for space, kind in message["spaces"].items()})
    update(program["addresses"], dict.fromkeys(message["addresses"], 1))


def follow(program: Any) -> None:
    """Serves orders and drops until the input ends."""
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    rest, lost = b"", 0
    os.set_blocking(0, False)
    while True:
        if selector.select(0):
            piece = os.read(0, 1 << 20)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                order(program, line)
                say(ready=True)
        program.ring_buffer_poll(50)
        now = sum(int(value.value) for value in program["lost"].values())
        if now != lost:
            say(lost=now - lost)
            lost = now


def main() -> int:
    with open(0, "rb", buffering=0, closefd=False) as orders:  # unbuffered: what follows is for `follow`
        first = orders.readline()
    try:
        program = compiled(json.loads(first)["source"])
    except ImportError:
        say(error=f"bcc is not installed for {sys.executable}: {INSTALL}")
        return 1
    except Exception as error:  # bcc raises plain Exception
        say(error=f"bcc cannot compile or load the program here: {error}")
        return 1
    program["out"].open_ring_buffer(lambda _, data, __: show(program, program["out"].event(data)))
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        follow(program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
