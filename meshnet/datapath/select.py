"""The data path that a node is told to use."""

from collections.abc import Mapping

from meshnet.datapath.base import Datapath, NodeContext
from meshnet.datapath.ebpf.datapath import Ebpf
from meshnet.errors import MeshnetError


def open_datapath(kind: str, context: NodeContext, map_sizes: Mapping[str, int] | None = None) -> Datapath:
    """The data path named `kind`, for one node. MeshnetError if there is none of that name.

    `map_sizes`: entries by name of a BPF map, where the defaults do not do.
    """
    if kind != "ebpf":
        raise MeshnetError(f"datapath {kind!r}: use ebpf")
    return Ebpf(context, map_sizes)
