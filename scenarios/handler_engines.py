"""The handlers for docker and podman, which run on this computer: they need the engine's socket and storage."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.model import Capability
from pytest_rexxinfra.node import node_runtime
from pytest_rexxinfra.rexx.build import Build
from pytest_rexxinfra.systems.podman_settings import settings_file

from .handler_talk import SECONDS, LocalTalk, Talk, script
from .handlers import SOON, Claim, Finding, Operation, Scene, Seen, hold, soon

SERVE = """\
trap 'exit 0' TERM
echo "{word} from the main process"
httpd -f -p 8080 -h /given &
wait
"""
PROGRAM = '#!/bin/sh\nexec node /opt/rexxjs/{entry} "$@"\n'
TELLING = "name = CAT('/proc/sys/kernel/hostname')\nx = FILE_WRITE('/tmp/by-rexx', name)\nSAY name\n"
TELLING_MORE = "x = FILE_WRITE('/tmp/by-rexx-2', 'more')\nSAY \"CHECKPOINT('PROGRESS', 'percent=50')\"\n"


class EngineScene(Scene):
    """Containers of docker or podman, looked at with the engine's own program."""

    def __init__(
        self, tool: str, image: str, limits: str, build: Build, folder: Path, environment: Mapping[str, str]
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        super().__init__(folder, image=image, limits=limits, port=self.port)
        self.limits = limits
        self.tool = tool
        self.build = build
        self.talk: Talk | None = None
        self.images = [f"{self.name}:{tag}" for tag in ("committed", "built")]
        self._environment = {**os.environ, **environment}
        given = folder / "given"
        given.mkdir()
        (given / "serve").write_text(SERVE.format(word=self.word))
        (folder / "sent").write_text(f"{self.word} sent\n")
        program = folder / "rexx"
        program.write_text(PROGRAM.format(entry=build.entry))
        (folder / "telling.rexx").write_text(TELLING)
        (folder / "telling-more.rexx").write_text(TELLING_MORE)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.tool, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=self._environment)

    def inspect(self, name: str) -> dict[str, Any] | None:
        result = self.run("container", "inspect", name)
        return json.loads(result.stdout)[0] if result.returncode == 0 else None

    def state(self, name: str | None = None) -> str:
        found = self.inspect(name or self.name)
        return str(found["State"]["Status"]) if found else "gone"

    def inside(self, command: str) -> str | None:
        """What a command in the container prints; nothing if it fails."""
        result = self.run("exec", self.name, "sh", "-c", command)
        return result.stdout.strip() if result.returncode == 0 else None

    def existing(self) -> list[str]:
        listed = self.run("ps", "--all", "--filter", f"name={self.name}", "--format", "{{.Names}}").stdout
        return sorted(listed.split())

    def install(self) -> None:
        """Puts the build itself where the stand-in for its single-file program looks for it."""
        self.run("exec", self.name, "mkdir", "-p", "/opt/rexxjs").check_returncode()
        self.run("cp", str(self.build.root / "core"), f"{self.name}:/opt/rexxjs/core").check_returncode()

    def tidy(self) -> None:
        names = self.existing()
        if names:
            self.run("rm", "--force", "--volumes", *names)
        self.run("rmi", "--force", *self.images)


def _status(scene: EngineScene, claim: Claim) -> Seen:
    answers = scene.run("version").returncode == 0
    containers = len(scene.existing())
    told = re.search(r"containers: (\d+)/", claim.text)
    happened = answers and told is not None and int(told[1]) == containers
    return Seen(happened, f"engine {'answers' if answers else 'silent'}, {containers} of the handler's containers")


def _engine_runs(scene: EngineScene, claim: Claim) -> Seen:
    answers = scene.run("ps").returncode == 0
    return Seen(answers, "engine answers" if answers else "engine silent")


def _created(scene: EngineScene, claim: Claim) -> Seen:
    found = scene.inspect(scene.name)
    if found is None:
        return Seen(False, "no such container")
    environment, host = found["Config"]["Env"] or [], found["HostConfig"]
    has = {
        "environment": f"WORD={scene.word}" in environment,
        "memory": not scene.limits or host["Memory"] == 64 << 20,
        "cpus": not scene.limits or 500_000_000 in (host.get("NanoCpus"), host.get("CpuQuota", 0) * 10_000),
        "port": str(scene.port) in json.dumps(host["PortBindings"]),
        "volume": "/given" in json.dumps(found["Mounts"]),
    }
    lacking = [wish for wish, fulfilled in has.items() if not fulfilled]
    happened = not lacking and found["State"]["Status"] == "created"
    how = f"{found['State']['Status']}, " + (f"without {', '.join(lacking)}" if lacking else "as asked for")
    return Seen(happened, how)


def _listed(scene: EngineScene, claim: Claim) -> Seen:
    existing = scene.existing()
    told = re.search(r"Found (\d+)", claim.text)
    return Seen(told is not None and int(told[1]) == len(existing), f"there: {len(existing)}")


def _is(state: str, suffix: str = "") -> Callable[[EngineScene, Claim], Seen]:
    def observe(scene: EngineScene, claim: Claim) -> Seen:
        found = scene.state(scene.name + suffix)
        return Seen(found == state, found)

    return observe


def _gone(suffix: str) -> Callable[[EngineScene, Claim], Seen]:
    return _is("gone", suffix)


def _file_inside(path: str) -> Callable[[EngineScene, Claim], Seen]:
    def observe(scene: EngineScene, claim: Claim) -> Seen:
        happened = soon(lambda: scene.inside(f"ls {path}") is not None, SOON if claim.success else 0)
        return Seen(happened, f"{path} {'is' if happened else 'is not'} in the container")

    return observe


def _executed(scene: EngineScene, claim: Claim) -> Seen:
    name, written = scene.inside("cat /proc/sys/kernel/hostname"), scene.inside("cat /tmp/ran")
    happened = bool(name) and written == name and claim.text.strip() == name
    return Seen(happened, "ran there, RESULT is its output" if happened else f"file {written}, host name {name}")


def _took_input(scene: EngineScene, claim: Claim) -> Seen:
    got = scene.inside("cat /tmp/input")
    happened = got == scene.word == claim.text.strip()
    return Seen(happened, "it read the input, RESULT is its output" if happened else f"it read {got}")


def _sent(scene: EngineScene, claim: Claim) -> Seen:
    same = scene.inside("cat /tmp/sent") == f"{scene.word} sent"
    return Seen(same, "file with its content" if same else "no such content")


def _fetched(scene: EngineScene, claim: Claim) -> Seen:
    path = Path(scene.folder, "fetched")
    same = path.is_file() and path.read_text().strip() == scene.word
    return Seen(same, "file with its content" if same else "no such content")


def _logged(scene: EngineScene, claim: Claim) -> Seen:
    line = f"{scene.word} from the main process"
    there = soon(lambda: line in scene.run("logs", scene.name).stdout)
    given = line in claim.text + claim.more
    return Seen(given, f"{'logs are there' if there else 'no logs'}; script gets {'them' if given else 'none of them'}")


def _deployed(scene: EngineScene, claim: Claim) -> Seen:
    program = Path(scene.folder, "rexx").read_text().strip()
    same = scene.inside("test -x /usr/local/bin/rexx && cat /usr/local/bin/rexx") == program
    return Seen(same, "program there, executable" if same else "no such program")


def _told_by_rexx(scene: EngineScene, claim: Claim) -> Seen:
    name, written = scene.inside("cat /proc/sys/kernel/hostname"), scene.inside("cat /tmp/by-rexx")
    happened = name is not None and written == name and name in claim.text
    how = "ran there, RESULT is its output" if happened else f"host name {name}, file {written}"
    left = scene.inside("ls /tmp | grep rexx_script")
    return Seen(happened, how + (f", left {left}" if left else ""))


def _image(tag: str, command: Sequence[str] | None = None) -> Callable[[EngineScene, Claim], Seen]:
    def observe(scene: EngineScene, claim: Claim) -> Seen:
        result = scene.run("image", "inspect", f"{scene.name}:{tag}")
        if result.returncode:
            return Seen(False, "no such image")
        config = json.loads(result.stdout)[0]["Config"]
        same = command is None or list(config.get("Cmd") or ()) == list(command)
        return Seen(same, "image is there" + ("" if command is None else f", command {config.get('Cmd')}"))

    return observe


def _serves(scene: EngineScene, claim: Claim) -> Seen:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{scene.port}/serve", timeout=SOON) as answer:
            real = scene.word in answer.read().decode()
    except OSError as error:
        return Seen(False, str(error))
    return Seen(real, "the container answers there" if real else "somebody else answers")


def _nothing_told(scene: EngineScene, claim: Claim) -> Seen:
    told = scene.name in claim.text
    return Seen(told, "numbers of the container" if told else "nothing about the container")


def _unchanged(scene: EngineScene, claim: Claim) -> Seen:
    return Seen(False, f"still {scene.state()}")


def _none_cleaned(scene: EngineScene, claim: Claim) -> Seen:
    return Seen("Cleaned up 0" in claim.text, f"there were {len(scene.existing())}")


def _unlimited(scene: EngineScene, claim: Claim) -> Seen:
    found = scene.inspect(f"{scene.name}-d")
    if found is None:
        return Seen(False, "no such container")
    memory = found["HostConfig"]["Memory"]
    return Seen(memory == 0, f"created, memory {memory >> 20}m" if memory else "created, as asked for")


def _process_ended(scene: EngineScene, claim: Claim) -> Seen:
    assert scene.talk
    ended = scene.talk.ended(SOON)
    return Seen(ended, f"the interpreter {'ended' if ended else 'still runs'}")


def _remove_outside(scene: EngineScene) -> None:
    scene.run("rm", "--force", f"{scene.name}-c").check_returncode()


def _write_word(scene: EngineScene) -> None:
    scene.run("exec", scene.name, "sh", "-c", f"echo {scene.word} >/tmp/fetch").check_returncode()


CREATE = (
    "create image={image} name={name} {limits} environment=WORD={word} ports=127.0.0.1:{port}:8080 "
    'volumes={folder}/given:/given command="sh /given/serve"'
)
PLAIN_CREATE = 'create image={image} name={name}-d command="sleep 600"'
ASK_REXX = "execute_rexx container={name} script_file={folder}/"
SCRIPT_OF_HANDLER = "LET many = <<MANY\nstatus\ncreate image={image} name={name}-e command=true\nMANY"
UNKNOWN = ("pause", "resume", "restart", "snapshot", "restore", "clone", "save_state", "register_base")


def _engine_operations(own: Sequence[Operation], last: Sequence[Operation]) -> tuple[Operation, ...]:
    return (
        Operation("status", "status", _status),
        Operation("create", CREATE, _created),
        Operation("list", "list", _listed),
        Operation("start", "start name={name}", _is("running")),
        Operation(
            "execute", 'execute container={name} command="cat /proc/sys/kernel/hostname | tee /tmp/ran"', _executed
        ),
        Operation("copy_to", "copy_to container={name} local={folder}/sent remote=/tmp/sent", _sent),
        Operation(
            "copy_from", "copy_from container={name} remote=/tmp/fetch local={folder}/fetched", _fetched, _write_word
        ),
        Operation("logs", "logs container={name} lines=5", _logged),
        Operation(
            "deploy_rexx", "deploy_rexx container={name} rexx_binary={folder}/rexx", _deployed, EngineScene.install
        ),
        Operation("execute_rexx", ASK_REXX + "telling.rexx", _told_by_rexx),
        Operation(
            "execute_rexx, progress",
            ASK_REXX + "telling-more.rexx progress_callback=true",
            _file_inside("/tmp/by-rexx-2"),
        ),
        Operation("process_stats", "process_stats", _nothing_told),
        *own,
        *(Operation(name, f"{name} name={{name}} container={{name}}", _unchanged) for name in UNKNOWN),
        Operation("stop", "stop name={name}", _is("exited")),
        Operation("remove", "remove name={name}", _gone("")),
        Operation("create, plain", "create image={image} name={name}-b command=true", _is("created", "-b")),
        Operation("cleanup", "cleanup", _gone("-b")),
        Operation("create, interactive", "create image={image} name={name}-c interactive=true", _is("created", "-c")),
        Operation("list, one removed outside", "list", _listed, _remove_outside),
        Operation("cleanup, one removed outside", "cleanup", _none_cleaned),
        Operation("create, beside a variable", PLAIN_CREATE, _unlimited, before='memory = "32m"'),
        Operation("cleanup all", "cleanup all=true", _gone("-d")),
        *last,
    )


DOCKER = _engine_operations(
    [
        Operation("check_docker_running", "check_docker_running", _engine_runs),
        Operation(
            "check_container_with_echo",
            'check_container_with_echo container={name} test_command="touch /tmp/checked"',
            _file_inside("/tmp/checked"),
        ),
        Operation(
            "execute, detached",
            'execute container={name} command="touch /tmp/detached" detached=true',
            _file_inside("/tmp/detached"),
        ),
        Operation("execute_stdin", 'execute_stdin container={name} command="tee /tmp/input" input={word}', _took_input),
        Operation("wait_for_port", "wait_for_port container={name} port={port} timeout=10000", _serves),
        Operation("commit", "commit container={name} image={name}:committed", _image("committed")),
        Operation(
            "build_image",
            'build_image from_image={image} tag={name}:built cmd="sh -x"',
            _image("built", ("sh", "-x")),
        ),
    ],
    [
        Operation("run_script", "run_script var=many", _is("created", "-e"), before=SCRIPT_OF_HANDLER),
        Operation("cleanup all, after run_script", "cleanup all=true", _gone("-e")),
        Operation("shutdown", "shutdown", _process_ended),
    ],
)
PODMAN = _engine_operations([], [])


def watch_engine(system: str, operations: Sequence[Operation], lab: Lab, build: Build, folder: Path) -> list[Finding]:
    """What the handler claims and what is seen of it, with containers of this computer's engine."""
    driver = lab.driver(system)
    if shutil.which(system) is None:
        raise SystemUnavailable(f"the handler runs the program {system}, which is not on this computer", where=system)
    deadline = Deadline(lab.settings.build_timeout)
    image = driver.prepare(Spec.of(image="mini"), deadline)
    node = shutil.which("node") or str(node_runtime(events=lab.events, deadline=deadline) / "bin" / "node")
    # The handler's podman needs what ours needs on this computer, such as another OCI runtime.
    environment = {"CONTAINERS_CONF": str(settings_file())} if system == "podman" else {}
    limits = "memory=64m cpus=0.5" if Capability.LIMITS in driver.capabilities else ""
    scene = EngineScene(system, image, limits, build, folder, environment)
    source = folder / "asking.rexx"
    source.write_text(
        script(
            str(build.root / f"extras/addresses/{system}-address/{system}-address.js"),
            system.upper(),
            scene.filled(operations),
            LocalTalk.gate(folder),
            f"ADDRESS SYSTEM '{system} rmi --force {' '.join(scene.images)}'",
        )
    )
    program, *words = build.command(build.root, node)
    quiet = Path(__file__).with_name("loopback_only.cjs")
    talk = LocalTalk([program, "-r", str(quiet), *words, str(source)], folder, environment)
    try:
        scene.talk = talk
        return list(hold(scene, system, operations, talk))
    finally:
        talk.close()
        scene.tidy()
