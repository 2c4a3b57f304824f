"""What each capability is asked for with, so that a system that lacks it can be seen to refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_rexxinfra import Capability, Machine, Network
from pytest_rexxinfra.deadline import Deadline

WISHES: dict[Capability, dict[str, Any]] = {
    Capability.BOOT: {"boot": True},
    Capability.EGRESS: {"egress": [80]},
    Capability.HEALTH: {"health": "true"},
    Capability.HOST_NETWORK: {"network": "host"},
    Capability.HOST_PID: {"host_pid": True},
    Capability.HOSTNAME: {"hostname": "chosen"},
    Capability.IMAGES: {"image": "mini"},
    Capability.LIMITS: {"memory": "64m", "cpus": 0.5, "pids": 50},
    Capability.MAIN_PROCESS: {"command": "echo main started; exec sleep 1000"},
    Capability.NETWORK_NONE: {"network": "none"},
    Capability.PRIVILEGED: {"privileged": True},
    Capability.PORTS: {"ports": [8080]},
    Capability.USERS: {"user": "nobody"},
    Capability.VOLUMES: {"volumes": ["/:/host:ro"]},
}

OPERATIONS: dict[Capability, Callable[[Machine], Any]] = {
    Capability.CLONE: lambda machine: machine.clone(),
    Capability.IMPAIRMENT: lambda machine: Network("net").loss(machine, 0.1),
    Capability.LOGS: lambda machine: machine.logs(),
    Capability.PAUSE: lambda machine: machine.pause(),
    Capability.RESTART: lambda machine: machine.restart(),
    Capability.SAVE_STATE: lambda machine: machine.save_state(),
    Capability.SNAPSHOT: lambda machine: machine.snapshot(),
    Capability.STATS: lambda machine: machine.stats,
    Capability.USERS: lambda machine: machine.run("true", user="nobody"),
    Capability.COMMIT: lambda machine: machine.commit("x:y"),
    Capability.BAKE: lambda machine: machine.driver.baked("key"),
    Capability.STORAGE: lambda machine: machine.driver.storage,
    Capability.NETWORKS: lambda machine: machine.driver.create_network(machine.resource, Deadline(5)),
}
