"""A podman service of our own, for computers on which none listens. It ends with the process that uses it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from ..deadline import Deadline
from ..errors import SystemUnavailable
from .podman_settings import settings_file, storage_driver

_STARTING = 20.0

# Killed or not, this process ends our end of the pipe that cat reads.
_SCRIPT = """
folder=$1; shift
exec 3<&0
"$@" </dev/null 3<&- & service=$!
{ cat <&3 >/dev/null; kill "$service"; } 2>/dev/null & guard=$!
exec 3<&-
wait "$service"; status=$?
kill "$guard" 2>/dev/null
rm -rf "$folder"
exit "$status"
"""


class PodmanService:
    """One running service; `url` is where it listens."""

    def __init__(self, program: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rexxinfra-podman-"))
        self._socket = self._folder / "api.sock"
        self.url = f"unix://{self._socket}"
        serve = [program, "system", "service", "--time=0", self.url]
        # Opened once, for its folder goes with the service; to append, so that reading moves no writer.
        with (self._folder / "log").open("a+b") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "sh", str(self._folder), *serve],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(self._folder),
                # The runtime writes into the directory that it finds itself in.
                cwd=self._folder,
                start_new_session=True,
            )
            try:
                Deadline(_STARTING).wait_for(lambda: self._answers() or not self.alive, "the podman service")
                failed = not self.alive
            except BaseException:
                self.close()
                raise
            log.seek(0)
            said = log.read().decode("utf-8", "replace")
        if failed:
            raise SystemUnavailable(
                "the podman service does not start",
                where="podman",
                command=serve,
                output=said,
                hint="podman info",
            )

    def _answers(self) -> bool:
        return answers(self._socket)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the service; containers go on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def answers(path: Path) -> bool:
    """Whether something listens at a socket."""
    with socket.socket(socket.AF_UNIX) as attempt:
        try:
            attempt.connect(str(path))
        except OSError:
            return False
    return True


_LOCK = threading.Lock()
_services: dict[int, PodmanService] = {}


def private_service() -> PodmanService | None:
    """The service of this process, started if need be; ``None`` without podman.

    Raises `SystemUnavailable` when it does not start.
    """
    program = shutil.which("podman")
    if program is None:
        return None
    with _LOCK:
        service = _services.get(os.getpid())
        if service is None or not service.alive:
            service = _services[os.getpid()] = PodmanService(program)
        return service


def _environment(folder: Path) -> dict[str, str]:
    # Podman forgets to remove the archive of an image that it has imported.
    environment = {**os.environ, "CONTAINERS_CONF": str(settings_file()), "TMPDIR": str(folder)}
    # It would make the service a client of itself.
    environment.pop("CONTAINER_HOST", None)
    driver = storage_driver()
    if driver is not None:
        environment.setdefault("STORAGE_DRIVER", driver)
    return environment
