"""A service's spec that says everything a client can say, as the Engine API writes it."""

from __future__ import annotations

from typing import Any


def full(name: str = "all", network: str = "demo") -> dict[str, Any]:
    """Every field of a spec, each with a value that is not its default. Nothing in it refers to a secret or config."""
    return {
        "Name": name,
        "Labels": {"tier": "front"},
        "TaskTemplate": {
            "ContainerSpec": _container(),
            "Resources": {
                "Limits": {"NanoCPUs": 500000000, "MemoryBytes": 52428800, "Pids": 100},
                "Reservations": {
                    "NanoCPUs": 250000000,
                    "MemoryBytes": 20971520,
                    "GenericResources": [
                        {"DiscreteResourceSpec": {"Kind": "SSD", "Value": 3}},
                        {"NamedResourceSpec": {"Kind": "GPU", "Value": "UUID1"}},
                    ],
                },
            },
            "RestartPolicy": {"Condition": "on-failure", "Delay": 0, "MaxAttempts": 3, "Window": 120000000000},
            "Placement": {
                "Constraints": ["node.role==worker"],
                "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
                "MaxReplicas": 2,
                "Platforms": [{"Architecture": "amd64", "OS": "linux"}],
            },
            "Networks": [{"Target": network, "Aliases": ["www"], "DriverOpts": {"a": "b"}}],
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
            "ForceUpdate": 7,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": 0}},
        "UpdateConfig": {
            "Parallelism": 0,
            "Delay": 1000000000,
            "FailureAction": "rollback",
            "Monitor": 2000000000,
            "MaxFailureRatio": 0.25,
            "Order": "start-first",
        },
        "RollbackConfig": {
            "Parallelism": 2,
            "Delay": 3000000000,
            "FailureAction": "continue",
            "Monitor": 4000000000,
            "MaxFailureRatio": 1,
            "Order": "start-first",
        },
        "EndpointSpec": {
            "Mode": "vip",
            "Ports": [
                {
                    "Name": "web",
                    "Protocol": "udp",
                    "TargetPort": 53,
                    "PublishedPort": 5353,
                    "PublishMode": "ingress",
                }
            ],
        },
    }


def _container() -> dict[str, Any]:
    return {
        "Image": "nginx:1.25@sha256:" + "0" * 64,
        "Labels": {"com.example": "x"},
        "Command": ["/entry"],
        "Args": ["sleep", "1000"],
        "Hostname": "h-{{.Task.Slot}}",
        "Env": ["A=B", "EMPTY="],
        "Dir": "/srv",
        "User": "www-data",
        "Groups": ["video"],
        "Privileges": {
            "CredentialSpec": None,
            "SELinuxContext": {"Disable": True},
            "Seccomp": {"Mode": "default"},
            "AppArmor": {"Mode": "disabled"},
            "NoNewPrivileges": True,
        },
        "Init": False,
        "StopSignal": "SIGUSR1",
        "TTY": True,
        "OpenStdin": True,
        "ReadOnly": True,
        "Mounts": _mounts(),
        "StopGracePeriod": 0,
        "Healthcheck": {
            "Test": ["CMD-SHELL", "true"],
            "Interval": 1000000000,
            "Timeout": 2000000000,
            "Retries": 4,
            "StartPeriod": 3000000000,
            "StartInterval": 500000000,
        },
        "Hosts": ["10.0.0.9 db.example db"],
        "DNSConfig": {"Nameservers": ["192.0.2.1"], "Search": ["example"], "Options": ["ndots:2"]},
        "Isolation": "default",
        "Sysctls": {"net.core.somaxconn": "1024"},
        "CapabilityAdd": ["CAP_NET_ADMIN"],
        "CapabilityDrop": ["CAP_CHOWN"],
        "Ulimits": [{"Name": "nofile", "Hard": 2048, "Soft": 1024}, {"Name": "core", "Hard": -1, "Soft": -1}],
        "OomScoreAdj": -10,
    }


def _mounts() -> list[dict[str, Any]]:
    return [
        {
            "Type": "bind",
            "Source": "/tmp",
            "Target": "/host",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
        },
        {
            "Type": "volume",
            "Source": "data",
            "Target": "/data",
            "Consistency": "cached",
            "VolumeOptions": {
                "NoCopy": True,
                "Labels": {"a": "b"},
                "DriverConfig": {"Name": "local"},
            },
        },
        {
            "Type": "tmpfs",
            "Target": "/run",
            "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 511},
        },
    ]
