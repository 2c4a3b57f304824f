"""What each mode lets machines be, and how it is read from what the user writes."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import Build, Capability, Lab, PolicyViolation, Settings, Spec, UsageError, Volume
from pytest_rexxinfra import policy as module
from pytest_rexxinfra.policy import Mode, Policy

ALL = frozenset(Capability)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project outside of the directories for temporary files, and a home."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("pytest_rexxinfra.mounts.temporary", lambda: [tmp_path / "temporary"])
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / "work").mkdir()
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "project/data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def build(tmp_path: Path) -> Build:
    (tmp_path / "interpreter").mkdir()
    return Build("it", "rexxjs", "binary", "ab12cd34ef56" + "0" * 52, tmp_path / "interpreter", "rexx", False)


def admit(policy: Policy, **wishes: Any) -> Spec:
    return policy.admit(Spec(**wishes), ALL, "docker:web")


def refused(policy: Policy, rule: str, **wishes: Any) -> PolicyViolation:
    with pytest.raises(PolicyViolation) as caught:
        admit(policy, **wishes)
    assert caught.value.rule == rule, caught.value
    assert caught.value.mode == policy.mode
    assert f"the policy {policy.mode} refuses" in str(caught.value)
    assert "--rexx-policy=permissive" in str(caught.value.hint)
    return caught.value


def volume(source: Path | str, read_only: bool = False) -> tuple[Volume, ...]:
    return (Volume(str(source), "/in", read_only),)


def read(table: dict[str, Any], root: Path, mode: str | None = None) -> Policy:
    return Policy.read(table, "pyproject.toml, policy", root, mode, "--rexx-policy")


RIGHTS = [
    ("privileged", {"privileged": True}),
    ("host-network", {"network": "host"}),
    ("host-pid", {"host_pid": True}),
]


@pytest.mark.parametrize("mode", [Mode.MODERATE, Mode.STRICT])
@pytest.mark.parametrize(("right", "wish"), RIGHTS)
def test_rights_over_the_host(mode: Mode, right: str, wish: dict[str, Any]) -> None:
    policy = Policy.of(mode)
    error = refused(policy, right, **wish)
    assert f'allow = ["{right}"] in [tool.rexxinfra.policy]' in str(error.hint)
    for name, value in wish.items():
        assert getattr(admit(replace(policy, allow=(right,)), **wish), name) == value
        assert getattr(admit(Policy.of(Mode.PERMISSIVE), **wish), name) == value


def test_moderate_changes_nothing(project: Path) -> None:
    spec = Spec(image="whatever:1", memory=1 << 40, ports=(80,), volumes=volume(project / "data"))
    assert Policy().admit(spec, frozenset(), "local:m1") == spec
    assert Policy().admit(Spec(), frozenset(), "local:m1") == Spec()


def test_permissive_allows_everything(project: Path) -> None:
    policy = read({"mode": "permissive", "max_memory": "1m", "images": [], "banned_commands": ["ls"]}, project)
    spec = Spec(image="x", memory=1 << 40, privileged=True, volumes=volume("/"))
    assert policy.admit(spec, frozenset(), "local:m1") is spec
    policy.check_command("rm -rf /", "local:m1")
    policy.check_command("ls", "local:m1")
    assert policy.bound is None


@pytest.mark.parametrize(
    "path", ["/", "/etc", "/usr/lib", "/proc", "/sys", "/dev", "/boot", "/run", "/var", "/var/log"]
)
def test_system_directories(project: Path, path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"no {path} here")
    for mode in (Mode.MODERATE, Mode.STRICT):
        with pytest.raises(PolicyViolation):
            admit(Policy.of(mode, project), volumes=volume(path))


def test_what_may_be_seen_read_only(project: Path) -> None:
    policy = Policy(root=project)
    for path in ("/etc/hosts", "/usr/share"):
        assert admit(policy, volumes=volume(path, read_only=True)).volumes[0].read_only
        assert "read-only" in str(refused(policy, "system directories", volumes=volume(path)))
    refused(policy, "secrets", volumes=volume("/etc", read_only=True))
    refused(policy, "secrets", volumes=volume("/etc/shadow", read_only=True))
    for path in ("/proc/sys", "/sys", "/dev/shm"):
        refused(policy, "system directories", volumes=volume(path, read_only=True))
    for path in ("/", "/run", "/var/lib"):
        refused(policy, "sockets", volumes=volume(path, read_only=True))
    refused(policy, "devices", volumes=volume("/dev/null"))


def test_links_and_dots_lead_nowhere_else(project: Path, tmp_path: Path) -> None:
    (project / "link").symlink_to("/etc")
    (project / "again").symlink_to(project / "link")
    (project / "own").symlink_to(project / "data")
    (project / "key").symlink_to(tmp_path / "home/.ssh")
    policy = Policy(root=project)
    for source in ("link", "again", "link/passwd", "data/../link", f"data/{'../' * 20}etc"):
        for text in (f"./{source}", str(project / source)):
            with pytest.raises(PolicyViolation):
                admit(policy, volumes=volume(text))
    refused(policy, "secrets", volumes=volume("./key"))
    assert admit(policy, volumes=volume("./own")).volumes == volume(project / "data"), "what was looked at is used"
    with pytest.raises(UsageError, match="does not exist"):
        admit(policy, volumes=volume("./nothing"))
    refused(policy, "system directories", volumes=volume("/proc/self/root/etc/passwd"))


def test_secrets_of_the_user(project: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".config/tool").mkdir(parents=True)
    (tmp_path / "vault").mkdir()
    (home / ".aws").symlink_to(tmp_path / "vault")
    for mode in (Mode.MODERATE, Mode.STRICT):
        policy = replace(Policy.of(mode, project), volumes=(tmp_path,))
        for path in (home, home / ".ssh", home / ".config/tool", tmp_path / "vault", tmp_path):
            refused(policy, "secrets", volumes=volume(path, read_only=True))
        assert admit(policy, volumes=volume(home / "work"))


def test_sockets_of_daemons(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("data/any.sock")
        refused(Policy(root=project), "sockets", volumes=volume("./data/any.sock"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{project}/data/engine/docker.sock")
    (project / "data/engine").mkdir()
    (project / "data/enginel").mkdir()
    refused(Policy(root=project), "sockets", volumes=volume("./data"))
    refused(Policy(root=project), "sockets", volumes=volume("./data/engine", read_only=True))
    assert admit(Policy(root=project), volumes=volume("./data/enginel"))


def test_strict_volumes_are_in_listed_directories(project: Path, tmp_path: Path) -> None:
    for name in ("listed", "listed-too", "other"):
        (tmp_path / name).mkdir()
    policy = Policy.of(Mode.STRICT, project)
    assert admit(policy, volumes=volume(project / "data"))
    assert admit(policy, volumes=volume(tmp_path / "temporary"))
    error = refused(policy, "volumes", volumes=volume(tmp_path / "other"))
    assert f'volumes = ["{tmp_path}/other"]' in str(error.hint)
    policy = read({"mode": "strict", "volumes": ["../listed"]}, project)
    assert admit(policy, volumes=volume(tmp_path / "listed"))
    for path in (tmp_path / "listed-too", tmp_path / "listed/../other", project / "data"):
        refused(policy, "volumes", volumes=volume(path))
    assert admit(policy, volumes=volume("rexx-data-0123456789ab"))
    refused(policy, "volumes", volumes=volume("production"))


def test_a_project_that_is_a_system_directory_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("/", "/etc", "/usr"):
        refused(Policy(root=Path(root)), "system directories", volumes=volume("/etc/hosts"))
    assert admit(Policy(root=Path("/usr/share")), volumes=volume("/usr/share"))


def test_listed_directories_are_exceptions_under_moderate(project: Path) -> None:
    refused(Policy(root=project), "system directories", volumes=volume("/usr/share"))
    assert admit(read({"volumes": ["/usr/share"]}, project), volumes=volume("/usr/share"))
    assert admit(read({"volumes": ["/usr/share"]}, project), volumes=volume("./data")), "and the others stay"


def test_images(project: Path) -> None:
    strict = Policy.of(Mode.STRICT, project)
    for own in ("mini", "debian-12", None):
        assert admit(strict, image=own).image == own
    error = refused(strict, "images", image="alpine")
    assert 'images = ["alpine"]' in str(error.hint)
    listed = read({"images": ["alpine:*", "registry.example/team/*:1"]}, project)
    for image in ("alpine", "alpine:3.20", "registry.example/team/web:1"):
        assert admit(listed, image=image)
    for image in ("alpine-evil:1", "x/alpine:3", "registry.example/team/web", "registry.example/team/x/web:1"):
        refused(listed, "images", image=image)


def test_images_that_are_paths(project: Path) -> None:
    (project / "web").mkdir()
    (project / "alpine").mkdir()
    (project / "other").mkdir()
    listed = read({"images": ["./web", "alpine:*", "./recipes/*.toml"]}, project)
    for image in ("./web", "web", "web/../web", str(project / "web"), "recipes/own.toml"):
        assert admit(listed, image=image)
    for image in ("./other", "web/../other", "alpine", "recipes/../own.toml", "web/rootfs.tar"):
        refused(listed, "images", image=image)


def test_builds(project: Path, build: Build) -> None:
    assert admit(Policy(root=project), build=build)
    error = refused(Policy.of(Mode.STRICT, project), "trusted_builds", build=build)
    assert 'trusted_builds = ["ab12cd34ef560000"]' in str(error.hint)
    for trusted in ("ab12cd34ef56", "sha256:" + build.digest, str(build.root), "../interpreter", "../interpreter/rexx"):
        assert admit(read({"mode": "strict", "trusted_builds": [trusted]}, project), build=build)
    for trusted in ("ab12cd34ef57", "../interpret", "regina", "./interpreter"):
        refused(read({"trusted_builds": [trusted]}, project), "trusted_builds", build=build)
    regina = replace(build, kind="regina")
    assert admit(read({"mode": "strict", "trusted_builds": ["regina"]}, project), build=regina)


def test_ceilings(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    strict = Policy.of(Mode.STRICT, project)
    filled = admit(strict)
    assert (filled.memory, filled.cpus, filled.pids) == (2 << 30, 2.0, 1024)
    assert admit(strict, memory=1 << 20, cpus=0.5, pids=5) == Spec(memory=1 << 20, cpus=0.5, pids=5, network="none")
    for wish in ({"memory": (2 << 30) + 1}, {"cpus": 2.1}, {"pids": 1025}):
        refused(strict, f"max_{next(iter(wish))}", **wish)
    with pytest.raises(PolicyViolation, match="a machine whose memory, cpus, pids cannot be limited"):
        strict.admit(Spec(), ALL - {Capability.LIMITS}, "local:m1")
    without = {"max_memory": "none", "max_cpus": "none", "max_pids": "none"}
    lifted = read({"mode": "strict", **without}, project)
    assert lifted.admit(Spec(), ALL - {Capability.LIMITS}, "local:m1") == Spec(network="none")
    assert admit(read({"max_memory": "1.5g"}, project)).memory == 3 << 29
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert admit(strict).cpus == 1


def test_strict_machines_are_alone(project: Path) -> None:
    strict = Policy.of(Mode.STRICT, project)
    assert admit(strict).network == "none"
    assert admit(strict, network="none").network == "none"
    assert admit(strict, network="rexx-net-0123456789ab").network == "rexx-net-0123456789ab"
    refused(strict, "network", network="bridge")
    refused(strict, "network", ports=(80,))
    refused(strict, "network", pod="rexx-pod-0123456789ab")
    with pytest.raises(PolicyViolation, match="the system's own network"):
        strict.admit(Spec(), ALL - {Capability.NETWORK_NONE}, "local:m1")
    assert admit(replace(strict, allow=("network",)), ports=(80,)).network is None


def test_strict_is_strict_however_it_is_made(build: Build) -> None:
    for policy in (Policy(Mode.STRICT), Policy("strict"), Policy.of("strict")):  # type: ignore[arg-type]
        refused(policy, "images", image="alpine")
        refused(policy, "trusted_builds", build=build)
        refused(policy, "network", network="bridge")
    with pytest.raises(UsageError, match="policy: 'lax' is not one of"):
        Policy.of("lax")


def test_no_network_of_another_container() -> None:
    for network in ("container:other", "ns:/proc/1/ns/net", ""):
        refused(Policy(), "network", network=network)


def test_commands() -> None:
    for wish in ({"command": ("/bin/sh", "-c", "rm -rf /")}, {"command": ("rm", "-rf", "/")}):
        error = refused(Policy(), "banned_commands", **wish)
        assert error.command is not None
        assert "rm -rf /" in error.command
    with pytest.raises(PolicyViolation, match="the banned command `reboot`"):
        Policy(banned_commands=("reboot",)).check_command("sync; reboot", "local:m1")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"mode": "lax"}, "policy, mode: 'lax' is not one of strict, moderate, permissive"),
        ({"image": ["x"]}, "policy has no 'image'"),
        ({"max_memory": "lots"}, "policy, max_memory: 'lots' is no size"),
        ({"max_memory": True}, "policy, max_memory: True is no size"),
        ({"max_memory": 0}, "policy, max_memory: 0 is no size"),
        ({"max_cpus": "two"}, "policy, max_cpus: 'two' is not a number above 0"),
        ({"max_cpus": True}, "policy, max_cpus: True is not a number"),
        ({"max_cpus": float("nan")}, "policy, max_cpus: nan is not a number"),
        ({"max_machines": 2.5}, "policy, max_machines: 2.5 is not a number"),
        ({"max_machines": 0}, "policy, max_machines: 0 is not a number"),
        ({"images": [1]}, "policy, images: \\[1\\] is not a list of texts"),
        ({"images": {"a": 1}}, "policy, images: .* is not a list of texts"),
        ({"volumes": ["./nowhere"]}, "policy, volumes: .*nowhere does not exist"),
        ({"volumes": [" "]}, "policy, volumes: .* is not a list of texts"),
        ({"banned_commands": ["echo 'x"]}, "policy, banned_commands: .* cannot be read"),
        ({"trusted_builds": ["nightly"]}, "policy, trusted_builds: 'nightly' is no build"),
        ({"allow": ["everything"]}, "policy, allow: 'everything' is not one of privileged, host-network"),
    ],
)
def test_a_table_that_cannot_be_right(table: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"pyproject.toml, {message}"):
        read(table, tmp_path)


def load(root: Path, text: str, given: str | None = None, **environ: str) -> Settings:
    (root / "pyproject.toml").write_text(text)
    return Settings.load({"policy": given}, environ=environ, root=root)


def test_where_the_policy_comes_from(tmp_path: Path) -> None:
    assert load(tmp_path, "").policy == Policy(root=tmp_path)
    assert load(tmp_path, '[tool.rexxinfra]\npolicy = "strict"').policy == Policy.of(Mode.STRICT, tmp_path)
    table = '[tool.rexxinfra.policy]\nmode = "strict"\nmax-memory = "1g"\nimages = "alpine:*"\n'
    policy = load(tmp_path, table).policy
    assert (policy.mode, policy.max_memory, policy.max_cpus, policy.images) == (
        Mode.STRICT,
        1 << 30,
        2.0,
        ("alpine:*",),
    )
    policy = load(tmp_path, table, "moderate").policy
    assert (policy.mode, policy.max_memory, policy.max_cpus, policy.images) == (
        "moderate",
        1 << 30,
        None,
        ("alpine:*",),
    )
    assert load(tmp_path, table, REXX_POLICY="permissive").policy.mode is Mode.PERMISSIVE
    assert load(tmp_path, table, "moderate", REXX_POLICY="permissive").policy.mode is Mode.MODERATE
    for given, environ, place in (("lax", {}, "--rexx-policy"), (None, {"REXX_POLICY": "lax"}, "\\$REXX_POLICY")):
        with pytest.raises(UsageError, match=f"{place}: 'lax' is not one of"):
            load(tmp_path, table, given, **environ)
    with pytest.raises(UsageError, match=r"pyproject.toml, policy, mode: \['strict'\] is not one of"):
        load(tmp_path, '[tool.rexxinfra]\npolicy = ["strict"]')


def test_the_policy_bounds_the_machines() -> None:
    strict = Policy.of(Mode.STRICT)
    assert Settings(policy=strict).bounds == {"*": 5}
    assert Settings(policy=strict, max={"*": 3, "docker": 9, "local": 2}).bounds == {"*": 3, "docker": 5, "local": 2}
    assert Settings(max={"docker": 9}).bounds == {"docker": 9}
    assert Settings(policy=replace(strict, mode=Mode.PERMISSIVE), max={}).bounds == {}


def test_every_setting_can_be_written() -> None:
    assert {each.name for each in fields(Policy)} == {"mode", "root", *module._READERS}


def test_a_violation_goes_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(refused(Policy(), "privileged", privileged=True)))
    assert (error.rule, error.mode, error.where) == ("privileged", "moderate", "docker:web")
    assert "allow" in str(error)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger.sqlite3"))
    policy = replace(Policy.of(Mode.STRICT, tmp_path), max_memory=None, max_cpus=None, max_pids=None)
    with Lab(Settings(target="local", build="regina", policy=policy, audit=str(tmp_path / "audit.jsonl"))) as lab:
        yield lab


def test_the_lab_asks_the_policy(lab: Lab) -> None:
    if Capability.NETWORK_NONE not in lab.driver("local").capabilities:
        pytest.skip("local machines have no network of their own here")
    machine = lab.provision()
    assert machine.run("cat /proc/net/dev").stdout.count(":") == 1, "only its own loopback"
    with pytest.raises(PolicyViolation, match="removing /"):
        machine.run("rm -rf /")
    with pytest.raises(PolicyViolation, match="removing /"):
        machine.run(["rm", "-rf", "/"])
    assert machine.run("echo 'rm -rf /'").lines == ["rm -rf /"]
    with pytest.raises(PolicyViolation, match="the build Regina"):
        machine.rexx("SAY 'not with a build that nobody trusts'")
    with pytest.raises(PolicyViolation, match="the build Regina"):
        lab.provision(build=lab.build)


def test_a_hint_is_the_way_out(lab: Lab) -> None:
    """What a refusal tells to write is what lets it pass."""
    with pytest.raises(PolicyViolation) as caught:
        lab.runtime(lab.provision())
    digest = str(caught.value.hint).split('["')[1].split('"]')[0]
    policy = read({"trusted_builds": [digest]}, Path.cwd())
    policy.check_build(lab.build, "local:m1")
