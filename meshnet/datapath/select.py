"""The data path that a node is told to use."""

from meshnet.datapath.base import Datapath, NodeContext
from meshnet.datapath.ebpf.datapath import Ebpf
from meshnet.errors import MeshnetError


def open_datapath(kind: str, context: NodeContext) -> Datapath:
    """The data path named `kind`, for one node. MeshnetError if there is none of that name."""
    if kind != "ebpf":
        raise MeshnetError(f"datapath {kind!r}: use ebpf")
    return Ebpf(context)
