"""A task: a container in a network namespace that was wired before, watched until it ends.

`Containers(Images(...)).create(ContainerSpec(...))` makes one; `Container` starts, checks, stops and removes it.
conmon and the task live on when the agent dies, and `Containers.adopt` finds them again.
"""

from meshnet.sandbox.container import Container
from meshnet.sandbox.containers import Containers
from meshnet.sandbox.images import HostImage, Image, Images, RootfsImage, from_mapping
from meshnet.sandbox.logs import LogLine
from meshnet.sandbox.spec import ContainerSpec, HealthConfig, TaskMount
from meshnet.sandbox.store import ImageStore

__all__ = [
    "Container",
    "ContainerSpec",
    "Containers",
    "HealthConfig",
    "HostImage",
    "Image",
    "ImageStore",
    "Images",
    "LogLine",
    "RootfsImage",
    "TaskMount",
    "from_mapping",
]
