"""Containers of docker with an SSH server, as Vagrant's provider ``docker`` makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..deadline import Deadline
from ..errors import CommandFailed, ImageError, SystemUnavailable, UsageError
from ..model import Capability, Resource, Spec
from ..systems.base import Surroundings
from ..tools import run_tool
from .command import WHERE
from .provider import EVERYWHERE, Engine, Provider, Traces, clear
from .ruby import Value

if TYPE_CHECKING:
    from ..systems.engine_images import EngineImages

_FIND = "PATH=$PATH:/usr/sbin:/sbin command -v sshd"

# Words: our public key, our directory, the main process. Its environment is in a file, so that no argument has it.
_START = f"""
key=$1 place=$2
shift 2
sshd=$({_FIND})
mkdir -p /run/sshd
printf '%s\\n' "$key" >/run/rexxinfra.keys
own=/etc/ssh/ssh_host_ed25519_key
[ -e $own ] || ssh-keygen -q -t ed25519 -N '' -f $own
serve="$sshd -o HostKey=$own -o AuthorizedKeysFile=/run/rexxinfra.keys -o PermitRootLogin=prohibit-password"
[ $# != 0 ] || exec $serve -D
$serve
until [ -e "$place/lease" ]; do sleep 0.05; done
. "$place/env"
exec "$@"
"""

_NETWORK = "vagrant_network"
"""How the names of the networks that vagrant makes begin."""
_NETWORKS = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"

_AS_USER = ("su", "-s", "/bin/sh", "-c", 'exec "$@"', "--")


class DockerProvider(Provider):
    """The engine that the command ``docker`` uses; images are those of the system ``docker``, with an SSH server."""

    name: ClassVar[str] = "docker"
    capabilities: ClassVar[frozenset[Capability]] = EVERYWHERE | {
        Capability.LOGS,
        Capability.MAIN_PROCESS,
        Capability.VOLUMES,
    }
    chosen_by: ClassVar[Sequence[str]] = ("DOCKER_HOST", "DOCKER_CONTEXT")
    default_image: ClassVar[str] = "debian-12"

    def __init__(self, around: Surroundings, engine: Engine | None = None) -> None:
        super().__init__(around, engine)
        self._served: set[str] = set()
        """Images that are known to have an SSH server."""

    @cached_property
    def _images(self) -> EngineImages:
        try:
            from ..systems.docker import DockerEngine
            from ..systems.engine_images import EngineImages
        except ImportError as missing:
            raise SystemUnavailable(
                f"images of docker cannot be used: {missing}",
                where=WHERE,
                hint="pip install 'pytest-rexxinfra[docker]'",
            ) from missing
        return EngineImages(DockerEngine(), self.around)

    def check(self, deadline: Deadline) -> str:
        try:
            version = self._docker(["version", "--format", "{{.Server.Version}}"], deadline).strip()
        except CommandFailed as failure:
            raise SystemUnavailable(
                "the provider docker finds no engine",
                where=WHERE,
                output=failure.output,
                hint="apt-get install docker.io && service docker start, or --rexx-vagrant-provider=libvirt",
            ) from failure
        return f"docker {version}"

    def prepare(self, image: str, deadline: Deadline) -> str:
        found = self._images.obtain(image, deadline)
        if found not in self._served:
            self._look_into(found, image, deadline)
            self._served.add(found)
        return found

    def _look_into(self, image: str, called: str, deadline: Deadline) -> None:
        """Refuse an image without an SSH server: vagrant would wait for it until its time is over."""
        look = ["run", "--rm", "--network=none", "--entrypoint=/bin/sh", image, "-c", _FIND]
        try:
            self._docker(look, deadline)
        except CommandFailed as failure:
            raise ImageError(
                f"the image {called} has no SSH server",
                where=WHERE,
                output=failure.output,
                hint=f"take one that has, such as {self.default_image}; or RUN apt-get install -y openssh-server",
            ) from failure

    def options(self, lease: Resource, spec: Spec, image: str, place: str, key: str) -> Mapping[str, Value]:
        process = [*_AS_USER, spec.user, "sh"] if spec.user and spec.command else []
        start = ["/bin/sh", "-ec", _START, "start", key, place, *process, *(spec.command or ())]
        return {
            **self.naming(lease.name),
            "image": image,
            "pull": False,
            "has_ssh": True,
            "create_args": ["--init", *_limits(spec), *_mounts(spec)],
            "cmd": start,
        }

    def settings(self, image: str, key: Path) -> Mapping[str, Value]:
        return {
            "ssh.username": "root",
            "ssh.private_key_path": str(key),
            "ssh.insert_key": False,
            "ssh.sudo_command": "%c",
            # Finding it out takes seconds, and nothing in a container depends on it.
            "vm.guest": "linux",
            "vm.allow_hosts_modification": False,
        }

    def naming(self, name: str) -> Mapping[str, Value]:
        return {"name": name}

    def remove_left(self, traces: Traces, deadline: Deadline) -> None:
        chosen = [f"--filter=name=^/{traces.name}$", *([f"--filter=id={traces.id}"] if traces.id else [])]
        networks: set[str] = set()

        def containers() -> list[str]:
            listed = [self._docker(["ps", "-aq", each], deadline).split() for each in chosen]
            return sorted({container for containers in listed for container in containers})

        def remove(container: str) -> None:
            networks.update(self._docker(["inspect", f"--format={_NETWORKS}", container], deadline).split())
            self._docker(["rm", "--force", "--volumes", container], deadline)

        clear(containers, remove, deadline, f"docker to remove {traces.name}")
        for network in networks:
            if network.startswith(_NETWORK):
                # Others may be in it.
                with suppress(CommandFailed):
                    self._docker(["network", "rm", network], deadline)

    def logs(self, name: str, deadline: Deadline) -> str:
        # The two streams in the order in which they were written.
        both = ["sh", "-c", 'exec docker logs "$0" 2>&1', name]
        return run_tool(both, deadline=deadline, where=WHERE, name="docker logs", env=self.engine)

    def create_volume(self, name: str, deadline: Deadline) -> None:
        self._docker(["volume", "create", name], deadline)

    def remove_volume(self, name: str, deadline: Deadline) -> None:
        self._docker(["volume", "rm", "--force", name], deadline)

    def _docker(self, words: Sequence[str], deadline: Deadline) -> str:
        hint = "apt-get install docker.io"
        return run_tool(["docker", *words], deadline=deadline, where=WHERE, env=self.engine, hint=hint)


def _limits(spec: Spec) -> Iterator[str]:
    if spec.memory:
        yield from (f"--memory={spec.memory}", f"--memory-swap={spec.memory}")
    if spec.cpus:
        yield f"--cpus={spec.cpus:g}"
    if spec.pids:
        yield f"--pids-limit={spec.pids}"


def _mounts(spec: Spec) -> Iterator[str]:
    for each in spec.volumes:
        kind = "bind" if each.source.startswith("/") else "volume"
        if any(sign in each.source + each.target for sign in ',"\n'):
            raise UsageError(f"volume {each.source}: docker takes no comma, quote or line break in a path", where=WHERE)
        yield from ("--mount", f"type={kind},source={each.source},target={each.target}" + ",readonly" * each.read_only)
