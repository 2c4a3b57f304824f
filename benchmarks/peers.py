"""A container of a local image, each peer's way, with the settings that let the peer be quickest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bench import IDLE

if TYPE_CHECKING:
    from pytest_container.container import Container
    from testcontainers.core.container import DockerContainer


def peer_container(image: str, label: str) -> Container:
    """For pytest-container. Its ``docker stop`` would wait 10 s for a process 1 that ignores SIGTERM."""
    from pytest_container.container import Container

    return Container(
        url=f"containers-storage:{image}",
        custom_entry_point=IDLE[0],
        extra_entrypoint_args=list(IDLE[1:]),
        extra_launch_args=["--label", label, "--stop-signal", "SIGKILL"],
    )


def started_by_testcontainers(image: str, label: str) -> DockerContainer:
    """For testcontainers, whose reaper container ``ryuk`` the caller has disabled in the environment."""
    from testcontainers.core.container import DockerContainer

    name, _, value = label.partition("=")
    return DockerContainer(image).with_command(list(IDLE)).with_kwargs(labels={name: value})
