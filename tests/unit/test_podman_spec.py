"""A machine as podman's API, its command line and systemd take it."""

from __future__ import annotations

from pytest_rexxinfra import Spec
from pytest_rexxinfra.model import Health, Kind, Resource
from pytest_rexxinfra.systems.podman_spec import container_spec, quadlet, run_command

LEASE = Resource.lease_for("podman", Kind.MACHINE, "run", "web")


def body(attached: bool = True, **wishes: object) -> dict[str, object]:
    return container_spec(Spec.of(**wishes), LEASE, "sha256:abc", "rexxinfra/mini:1", attached)


def test_machine_that_waits_for_commands() -> None:
    made = body()
    assert (made["command"], made["stdin"], made["init"]) == (["/bin/sh"], True, True)
    assert made["log_configuration"] == {"driver": "none"}
    assert made["image"] == "abc"
    labels = made["labels"]
    assert isinstance(labels, dict)
    assert labels["rexxinfra.lease"] == LEASE.lease


def test_machine_that_may_be_kept_reads_from_nobody() -> None:
    made = body(attached=False)
    assert made["stdin"] is False
    assert made["command"] != ["/bin/sh"]


def test_limits_are_bytes_and_microseconds() -> None:
    assert body(memory="64m", cpus=0.5, pids=20)["resource_limits"] == {
        "memory": {"limit": 64 << 20, "swap": 64 << 20},
        "cpu": {"period": 100_000, "quota": 50_000},
        "pids": {"limit": 20},
    }
    assert "resource_limits" not in body()


def test_networks() -> None:
    assert body(network="none")["netns"] == {"nsmode": "none"}
    assert "hostname" not in body(network="host", hostname="x")
    made = body(network="rexx-net", hostname="web")
    assert made["Networks"] == {"rexx-net": {"aliases": ["web"]}}


def test_member_of_a_pod_has_no_network_of_its_own() -> None:
    made = container_spec(Spec(pod="rexx-pod", network="none"), LEASE, "abc", "mini", attached=True)
    assert made["pod"] == "rexx-pod"
    assert "netns" not in made


def test_volumes_are_directories_or_names() -> None:
    made = body(volumes=["/:/host:ro", "data:/data"])
    assert made["mounts"] == [
        {"type": "bind", "source": "/", "destination": "/host", "options": ["rbind", "ro"]},
    ]
    assert made["volumes"] == [{"Name": "data", "Dest": "/data", "Options": []}]


def test_among_the_processes_of_the_host_there_is_no_init() -> None:
    made = body(host_pid=True)
    assert (made["init"], made["pidns"]) == (False, {"nsmode": "host"})
    assert "--init" not in run_command(Spec(host_pid=True), "x", "mini")


def test_booted_machine_has_its_own_init() -> None:
    made = body(attached=False, boot=True)
    assert (made["command"], made["init"], made["systemd"]) == (["/sbin/init"], False, "always")
    assert "--systemd=always" in run_command(Spec(boot=True), "x", "debian-12")
    assert "PodmanArgs=--systemd=always" in quadlet(Spec(boot=True), "x", "debian-12")


def test_command_line_that_makes_the_same() -> None:
    spec = Spec.of(env={"A": "b c"}, ports=[80], user="nobody", memory="64m", command=["sleep", "9"])
    assert run_command(spec, "web", "mini") == [
        "podman",
        "run",
        "--detach",
        "--name",
        "web",
        "--systemd=false",
        "--init",
        "--user=nobody",
        "--memory=67108864",
        "--env=A=b c",
        "--publish=127.0.0.1::80",
        "--entrypoint=[]",
        "mini",
        "sleep",
        "9",
    ]


def test_quadlet() -> None:
    spec = Spec.of(
        env={"ODD": 'a "b" 50% $HOME \\'},
        memory="64m",
        ports=[80],
        health=Health("true", interval=2),
        command=["echo", "a b", "100%"],
        privileged=True,
    )
    assert quadlet(spec, "web", "mini").splitlines() == [
        "[Unit]",
        "Description=web",
        "",
        "[Container]",
        "ContainerName=web",
        "Image=mini",
        "RunInit=true",
        "PodmanArgs=--memory=67108864",
        "PodmanArgs=--privileged",
        r'Environment="ODD=a \"b\" 50%% $$HOME \\"',
        "PublishPort=127.0.0.1::80",
        "HealthCmd=true",
        "HealthInterval=2s",
        "HealthRetries=20",
        'Exec=echo "a b" 100%%',
        "",
        "[Service]",
        "Restart=always",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
