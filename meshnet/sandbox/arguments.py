"""What a program can be started with, and a container be called, as far as Linux sets bounds (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshnet.errors import MeshnetError

LONGEST = 128 * 1024 - 1  # bytes of one argument or variable (MAX_ARG_STRLEN)
ALL = 2 * 2**20  # bytes of all together, with a pointer each, under the usual limit of the stack
POINTER = 8
HOSTNAME = 64  # bytes (HOST_NAME_MAX)


def check_arguments(fields: Mapping[str, Iterable[str]]) -> None:
    """Refuses what execve(2) would with E2BIG, by the name of the field that has too much."""
    sizes = {}
    for name, values in fields.items():
        sizes[name] = 0
        for index, text in enumerate(values):
            size = len(text.encode(errors="surrogatepass"))
            if size > LONGEST:
                raise MeshnetError(
                    f"{name}[{index}]: {size} bytes are more than a program can be started with ({LONGEST})"
                )
            sizes[name] += size + 1 + POINTER
    whole = sum(sizes.values())
    if whole > ALL:
        largest = max(sizes, key=lambda name: sizes[name])
        raise MeshnetError(
            f"{largest}: arguments and variables of {whole} bytes are more than a program can be started with ({ALL})"
        )


def check_hostname(field: str, text: str) -> None:
    """Refuses what the kernel or a hosts file cannot take as a name."""
    if any(char.isspace() or not char.isprintable() for char in text):
        raise MeshnetError(f"{field}: invalid hostname format: {text[:80]!r}")
    size = len(text.encode())
    if size > HOSTNAME:
        raise MeshnetError(f"{field}: a hostname of at most {HOSTNAME} bytes is needed, not one of {size}")
