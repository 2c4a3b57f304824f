"""Pods, and what podman writes of a machine for systemd and Kubernetes, as a test uses them."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.model import Kind

from .conftest import GUARD, RUN_ID, Run, Start

pytestmark = pytest.mark.skipif(
    shutil.which("podman") is None and "podman" not in os.environ.get("REXX_REQUIRE", ""), reason="podman is not here"
)

ON_PODMAN = ("--rexx-target=podman", "--rexx-require=podman")


def ours() -> list[str]:
    """What runs of this module have left in podman."""
    return [f"{each.kind} {each.name}" for each in make_driver("podman", Events()).list() if each.run == RUN_ID]


def test_machines_of_a_pod_share_their_network(inner: Run) -> None:
    result = inner(
        """
        import urllib.request

        import pytest

        SERVE = "require('http').createServer((q, r) => r.end('served')).listen(8080)"

        def test_it(provision):
            pod = provision.pod("shop", ports=[8080])
            web = pod.machine("web", command=["node", "-e", SERVE])
            client = pod.machine("client", rexx=False, memory="64m")
            host, port = web.wait_for_port(8080)
            with urllib.request.urlopen(f"http://{host}:{port}/", timeout=10) as answer:
                assert answer.read() == b"served"
            assert client.run("wget -qO- http://127.0.0.1:8080/").stdout == "served"
            assert "kind: Pod" in client.kube_yaml()
            assert pod.machines == [web, client]

        def test_fixture(pod):
            assert pod.machine("one").run("hostname").lines == [pod.name]

        def test_what_only_the_pod_can_have(pod):
            pod.machine(ports=[80])
        """,
        *ON_PODMAN,
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*a machine in a pod has no ports of its own*"])
    assert ours() == []


def test_manifest_is_played_and_gone(inner: Run) -> None:
    result = inner(
        """
        MANIFEST = '''
        kind: ConfigMap
        metadata: {name: conf}
        data: {COLOUR: red}
        ---
        kind: Pod
        metadata: {name: web}
        spec:
          containers:
          - name: app
            image: mini
            command: [sh, -c, "echo started; exec sleep 1000"]
            envFrom: [{configMapRef: {name: conf}}]
          - {name: side, image: mini, command: [sleep, "1000"]}
        '''.replace("\\n        ", "\\n")

        def test_it(provision):
            app, side = sorted(provision.kube_play(MANIFEST), key=lambda machine: machine.name)
            assert (app.name, side.name) == ("web-app", "web-side")
            assert app.run("echo $COLOUR").lines == ["red"]
            assert app.logs() == "started\\n"

        def test_host_network_needs_to_be_allowed(provision):
            provision.kube_play(MANIFEST.replace("containers:", "hostNetwork: true\\n  containers:"))

        def test_image_that_there_is_not(provision):
            provision.kube_play(MANIFEST.replace("image: mini", "image: localhost:1/no/such"))
        """,
        *ON_PODMAN,
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*PolicyViolation:*host-network*", "*ImageError:*no/such*"])
    assert ours() == []


def test_units(inner: Run) -> None:
    inner(
        """
        import pytest

        @pytest.mark.machine(command="exec sleep 1000", env={"COLOUR": "red"})
        def test_it(machine):
            assert "ExecStart=/usr/bin/podman run" in machine.systemd_unit()
            assert "COLOUR=red" in machine.systemd_unit()
            assert f"ExecStart=/usr/bin/podman start {machine.resource.name}" in machine.systemd_unit(new=False)
            assert "[Container]" in machine.quadlet()
            assert f"name: {machine.resource.name}" in machine.kube_yaml()
        """,
        *ON_PODMAN,
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize("target", ["docker", "local"])
def test_elsewhere_a_pod_is_a_skip(inner: Run, target: str) -> None:
    result = inner("def test_it(pod): pod.machine()", f"--rexx-target={target}", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"*{target} has no pods*"])


def test_a_killed_run_leaves_no_pod(start: Start) -> None:
    going = start(
        """
        import pathlib, time

        def test_it(pod, provision):
            pod.machine("attached")
            pod.machine("busy", command="exec sleep 1000")
            provision("other", command="exec sleep 1000")
            pathlib.Path("made").touch()
            time.sleep(60)
        """,
        *ON_PODMAN,
    )
    going.wait_for("made")
    assert len(ours()) == 4
    assert any(each.startswith(Kind.POD) for each in ours())
    going.signal(signal.SIGKILL)
    going.process.wait()
    Deadline(GUARD).wait_for(lambda: not ours(), "the sweeper to remove all of it")
