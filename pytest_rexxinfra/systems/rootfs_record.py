"""What is on disk about a machine that starts from a directory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..model import process_start
from .record import Record

ALONE = "alone"
"""The network of a machine that reaches nothing but the controller."""


@dataclass(frozen=True)
class RootfsRecord(Record):
    """What other processes must know of a machine, or of a network (which only has a holder and a subnet).

    ``network`` is ``alone``, ``none``, ``host`` or the name of a network. ``layers`` is the kind of its layers.
    ``leader`` is the machine's process 1, ``tool`` the process of the system's own tool that started it.
    """

    image_root: str = ""
    layers: str = "overlay"
    network: str = ALONE
    subnet: str = ""
    address: str = ""
    hostname: str = ""
    ports: list[int] = field(default_factory=list)
    user: str | None = None
    main: bool = False
    boot: bool = False
    privileged: bool = False
    cgroup: dict[str, str] = field(default_factory=dict)
    generation: int = 0
    leader: int = 0
    leader_started: int | None = None
    tool: int = 0
    tool_started: int | None = None

    @property
    def running(self) -> bool:
        return bool(self.leader) and process_start(self.leader) == self.leader_started

    @property
    def tooled(self) -> bool:
        """Whether the tool that started the machine still runs."""
        return bool(self.tool) and process_start(self.tool) == self.tool_started

    def led_by(self, leader: int, tool: int) -> RootfsRecord:
        return replace(
            self,
            leader=leader,
            leader_started=process_start(leader),
            tool=tool,
            tool_started=process_start(tool),
        )
