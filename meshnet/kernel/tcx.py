"""Programs at ingress of a network device: by tcx where the kernel has it (6.6), else by clsact (see `tc`).

tcx calls a program without a classifier around it: 1 to 2 % of what a packet costs, at each device that it passes. Its
programs run before those of clsact, so that one which clsact holds is taken over without a gap. The calling thread and
`netlink` must be in the device's namespace.
"""

from __future__ import annotations

import errno
import functools

from meshnet.kernel import bpf, tc
from meshnet.kernel.bpf import Program
from meshnet.kernel.netlink import Netlink

_LOOPBACK = 1


@functools.cache
def works() -> bool:
    """Whether this kernel has tcx."""
    try:
        bpf.tcx_programs(_LOOPBACK)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def attach(index: int, program: Program, netlink: Netlink) -> bool:
    """Runs `program` for every packet that comes in at a device, in place of one of the same name; whether that changed
    anything. OSError (ENODEV) if the device is gone."""
    if not works():
        return tc.attach(index, tc.INGRESS, program, netlink)
    if not bpf.attach_tcx(index, program):
        return False
    tc.detach(index, tc.INGRESS, netlink)  # of a meshnet that did not know tcx
    return True


def detach(index: int, name: str, netlink: Netlink) -> bool:
    """Takes away what `attach` put there, by the program's name; whether there was anything."""
    found = works() and bpf.detach_tcx(index, name)
    return tc.detach(index, tc.INGRESS, netlink) or found
