"""Playbooks on machines of a run: what they do, and what is said when they cannot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import Lab, Machine, ansible
from pytest_rexxinfra.ansible.process import COLLECTIONS
from pytest_rexxinfra.errors import CommandFailed, CommandTimeout, SystemUnavailable, UsageError
from pytest_rexxinfra.settings import Settings

from .conftest import Start, remaining

pytest.importorskip("ansible_runner")

BIN = Path(sys.executable).parent
TARGETS = ["docker:debian-12", "nspawn:debian-12", "local"]
Tasks = list[dict[str, Any]]


def play(*tasks: dict[str, Any], hosts: str = "all", **more: Any) -> Tasks:
    return [{"hosts": hosts, "gather_facts": False, "tasks": list(tasks), **more}]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    audit = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    with Lab(Settings.load({"target": "local", "build": "regina", "audit": str(audit)})) as lab:
        yield lab
    assert not lab.tally.left


@pytest.fixture(scope="module")
def machines(lab: Lab) -> Callable[[str], Machine]:
    """A machine of each target that the tests of this module share."""
    made: dict[str, Machine] = {}

    def get(target: str) -> Machine:
        if target not in made:
            made[target] = provision(lab, target)
        return made[target]

    return get


def provision(lab: Lab, target: str, name: str | None = None) -> Machine:
    try:
        return lab.provision(target, name=name)
    except SystemUnavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=TARGETS)
def machine(machines: Callable[[str], Machine], request: pytest.FixtureRequest) -> Machine:
    return machines(request.param)


@pytest.fixture
def docker(machines: Callable[[str], Machine]) -> Machine:
    return machines("docker:debian-12")


@pytest.fixture(scope="module")
def bare(lab: Lab) -> Machine:
    """A machine without Python."""
    return provision(lab, "docker:mini")


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Machine]:
    machine = provision(lab, "docker:debian-12")
    yield machine
    lab.destroy(machine)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a playbook of a file, a template and a vaulted variable; the password is beside it."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files/blob").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "greeting.j2").write_text("hello {{ who }} from {{ inventory_hostname }}, {{ secret }}\n")
    (tmp_path / "password").write_text("open sesame\n")
    encrypt = [str(BIN / "ansible-vault"), "encrypt_string", "--vault-password-file", str(tmp_path / "password")]
    home = {**os.environ, "ANSIBLE_HOME": str(tmp_path / "home")}
    encrypt += ["--name", "secret", "v4ulted"]
    vaulted = subprocess.run(encrypt, env=home, capture_output=True, text=True, check=True)
    variables = vaulted.stdout.replace("\n", "\n    ").rstrip()
    (tmp_path / "site.yml").write_text(f"""
- hosts: all
  vars:
    {variables}
  tasks:
    - name: files
      copy: {{src: blob, dest: /tmp/site/}}
    - name: template
      template: {{src: greeting.j2, dest: /tmp/site/greeting, mode: "0640"}}
      notify: restart
  handlers:
    - name: restart
      command: touch /tmp/site/restarted
""")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_templates_handlers_facts_and_vault(machine: Machine, site: Path) -> None:
    machine.run("rm -rf /tmp/site; mkdir /tmp/site", check=True)
    result = machine.ansible("site.yml", extra_vars={"who": "you & me"}, vault_password_file="password")
    assert [(each.task, each.outcome) for each in result.tasks] == [
        ("Gathering Facts", "ok"),
        ("files", "changed"),
        ("template", "changed"),
        ("restart", "changed"),
    ]
    assert (result.status, result.rc, result.changed) == ("successful", 0, 3)
    assert result.stats[machine.name].changed == 3
    assert result.task("template").place == f"{site / 'site.yml'}:14"
    assert "PLAY RECAP" in result.stdout
    assert machine.read("/tmp/site/blob") == bytes(range(256)) * 8
    assert machine.read("/tmp/site/greeting").decode() == f"hello you & me from {machine.name}, v4ulted\n"
    assert machine.run("ls -l /tmp/site/greeting").stdout.startswith("-rw-r-----")
    assert machine.run("ls /tmp/site/restarted").ok


def test_streams_and_bytes_and_status(machine: Machine, tmp_path: Path) -> None:
    machine.write("/tmp/odd", bytes(range(256)))
    result = machine.ansible(
        play(
            {"name": "raw", "raw": "echo out; echo err >&2; exit 3", "ignore_errors": True},
            {"name": "command", "command": "sh -c 'echo out; echo err >&2; exit 4'", "failed_when": False},
            {"name": "fetch", "fetch": {"src": "/tmp/odd", "dest": f"{tmp_path}/odd", "flat": True}},
            {"name": "skipped", "raw": "true", "when": False},
        )
    )
    raw, command, _, skipped = result.tasks
    assert (raw.outcome, raw.ignored, raw.returned["rc"]) == ("failed", True, 3)
    assert (raw.returned["stdout"], raw.returned["stderr"]) == ("out\n", "err\n")
    assert (command.returned["rc"], command.returned["stdout"], command.returned["stderr"]) == (4, "out", "err")
    assert (tmp_path / "odd").read_bytes() == bytes(range(256))
    assert skipped.outcome == "skipped"
    assert result.ok


def test_a_playbook_that_changes_nothing_again_is_idempotent(docker: Machine) -> None:
    text = "- hosts: all\n  tasks:\n    - name: copy\n      copy: {content: x, dest: /tmp/idempotent}\n"
    docker.run("rm -f /tmp/idempotent")
    result = docker.ansible(text, check_idempotent=True)
    assert [each.task for each in result.changes] == ["copy"]


def test_a_playbook_that_changes_something_again_is_not_idempotent(docker: Machine) -> None:
    text = """
- hosts: all
  gather_facts: false
  tasks:
    - name: steady
      raw: "true"
      changed_when: false
    - name: restless
      raw: date
"""
    with pytest.raises(CommandFailed) as caught:
        docker.ansible(text, check_idempotent=True)
    assert f"task 'restless' changed on {docker.where} (playbook.yml:8)" in str(caught.value)
    assert "steady" not in str(caught.value)


def test_the_error_of_a_failing_task(docker: Machine, site: Path) -> None:
    (site / "bad.yml").write_text("""
- hosts: all
  gather_facts: false
  tasks:
    - name: fine
      raw: "true"
    - name: break it
      command: sh -c 'echo half done; echo no space >&2; exit 7'
    - name: never
      raw: touch /tmp/never
""")
    with pytest.raises(CommandFailed) as caught:
        docker.ansible("bad.yml")
    text = str(caught.value)
    for part in (docker.where, "'break it'", "non-zero return code", f"{site / 'bad.yml'}:7"):
        assert part in text
    assert "stdout: half done" in text
    assert "stderr: no space" in text
    assert not docker.run("ls /tmp/never").ok


def test_mistakes_in_a_playbook(docker: Machine, site: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yml does not exist"):
        docker.ansible("nowhere.yml")
    with pytest.raises(UsageError, match="password file nothing does not exist"):
        docker.ansible("site.yml", vault_password_file="nothing")
    with pytest.raises(UsageError, match="extra_vars cannot be given"):
        docker.ansible("site.yml", extra_vars={"what": object()})
    with pytest.raises(UsageError, match="timeout"):
        docker.ansible("site.yml", timeout=0)
    with pytest.raises(UsageError, match="is for any of"):
        docker.ansible(play({"raw": "true"}, hosts="elsewhere"))
    with pytest.raises(CommandFailed, match="status 4") as caught:
        docker.ansible("- hosts: all\n  tasks: [\n")
    assert "YAML parsing failed" in str(caught.value)
    assert "playbook.yml:3" in str(caught.value)


def test_the_policy_holds_for_a_playbook(bare: Machine) -> None:
    with pytest.raises(CommandFailed, match="the policy moderate refuses removing /"):
        bare.ansible(play({"name": "clean up", "raw": "rm -rf /"}))


def test_groups_of_machines_in_several_systems(lab: Lab, machines: Callable[[str], Machine]) -> None:
    web = provision(lab, "docker:debian-12", name="web")
    db = machines("nspawn:debian-12")
    queue = provision(lab, "lxc:debian-12", name="queue")
    result = ansible.play(
        [web, db, queue],
        [
            *play({"name": "everywhere", "copy": {"content": "{{ rexxinfra_system }}", "dest": "/tmp/system"}}),
            *play({"name": "serve", "command": "hostname"}, hosts="web_servers"),
        ],
        groups={"web_servers": [web, queue]},
    )
    assert {each.host for each in result.tasks if each.task == "everywhere"} == {"web", db.name, "queue"}
    assert {each.host for each in result.tasks if each.task == "serve"} == {"web", "queue"}
    assert [each.read("/tmp/system") for each in (web, db, queue)] == [b"docker", b"nspawn", b"lxc"]
    lab.destroy(web, queue)


def test_hosts_run_at_once(lab: Lab) -> None:
    """Each waits for the other: one after the other, neither would end."""
    pair = [provision(lab, "docker:mini") for _ in range(2)]
    meet = (
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - raw: touch /tmp/here; until [ -e /tmp/met ]; do sleep 0.05; done\n"
    )
    introduced = threading.Thread(target=_introduce, args=(pair,))
    introduced.start()
    assert ansible.play(pair, meet, timeout=300).ok
    introduced.join()
    lab.destroy(*pair)


def _introduce(pair: list[Machine]) -> None:
    for machine in pair:
        machine.wait_until("ls /tmp/here", timeout=300)
    for machine in pair:
        machine.run("touch /tmp/met", check=True)


def test_a_machine_that_goes_is_unreachable(lab: Lab) -> None:
    doomed = provision(lab, "docker:mini")
    stays = provision(lab, "docker:mini")
    tasks = play(
        {"name": "last words", "raw": "touch /tmp/begun; [ -e /tmp/stays ] || sleep 4341"},
        {"name": "later", "raw": "echo on"},
    )
    stays.run("touch /tmp/stays", check=True)

    def doom() -> None:
        doomed.wait_until("ls /tmp/begun", timeout=300)
        lab.destroy(doomed)

    threading.Thread(target=doom).start()
    with pytest.raises(CommandFailed) as caught:
        ansible.play([doomed, stays], tasks, timeout=400)
    assert f"task 'last words' unreachable on {doomed.where}" in str(caught.value)
    assert "what became of the command is unknown" in str(caught.value)
    assert stays.where not in str(caught.value)
    lab.destroy(stays)


def test_a_play_that_takes_too_long_is_ended(docker: Machine) -> None:
    said = ""
    for timeout in (8, 30, 120):
        with pytest.raises(CommandTimeout) as caught:
            docker.ansible(play({"name": "sleepy", "raw": "sleep 4342"}), timeout=timeout)
        said = str(caught.value)
        if "in its beginning" not in said:  # where Ansible had not even begun to play
            break
    assert f"task 'sleepy' on {docker.where}" in said
    assert "sleep 4342" not in processes(docker)
    assert docker.run("echo on").lines == ["on"]


def test_a_task_with_a_timeout_of_its_own_is_killed_in_the_machine(docker: Machine) -> None:
    result = docker.ansible(play({"name": "brief", "raw": "sleep 4343", "timeout": 1, "ignore_errors": True}))
    assert "imed out" in result.task("brief").message
    docker.wait_until("! cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q 'sleep 434[3]'")


def processes(machine: Machine) -> str:
    return machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout


def test_ctrl_c_ends_a_play(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        going = start(
            """
            import os

            def test_play(machine):
                begun = {"raw": "sleep 4344", "name": "sleep"}
                mark = {"command": f"touch {os.getcwd()}/begun", "delegate_to": "localhost"}
                machine.ansible([{"hosts": "all", "gather_facts": False, "tasks": [mark, begun]}])
            """,
            "--rexx-target=local",
        )
        going.wait_for("begun")
        going.signal(signal.SIGINT)
        assert going.end() == pytest.ExitCode.INTERRUPTED, going.said
        assert [each.name for each in Path(temporary).glob("rexx-ansible-*")] == []
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not [each for each in commands if temporary.encode() in each or b"sleep\0004344" in each]
    assert remaining() == []


def test_become_with_a_password_that_is_asked_for_or_not(fresh: Machine) -> None:
    fresh.run("useradd -m joe && printf 'root:t0p secret\\n' | chpasswd", check=True)
    su: dict[str, Any] = {"become": True, "become_method": "su"}
    who = {"name": "who", "command": "id -un"}
    cat = {"name": "cat", "raw": "cat; echo end"}
    plays = [
        *play(who, cat, **su, become_user="joe"),
        *play(who, cat, **su, remote_user="joe", become_user="root", vars={"ansible_become_pass": "t0p secret"}),
        *play(who, cat, **su, become_user="joe", vars={"ansible_become_pass": "is not asked for"}),
    ]
    result = fresh.ansible(plays)
    assert [each.returned["stdout"] for each in result.tasks if each.task == "who"] == ["joe", "root", "joe"]
    assert {each.returned["stdout"] for each in result.tasks if each.task == "cat"} == {"end\n"}
    wrong = play(who, **su, remote_user="joe", become_user="root", vars={"ansible_become_pass": "guessed"})
    with pytest.raises(CommandFailed, match="su to another user failed"):
        fresh.ansible(wrong)


def test_secrets_are_in_no_argument_no_transcript_and_no_audit_log(lab: Lab, docker: Machine, site: Path) -> None:
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    folder = "{{ ansible_rexxinfra_bridge | dirname }}"
    text = (site / "site.yml").read_text()
    told = '    - {name: told, raw: "echo {{ secret }} {{ who }}"}\n  handlers:'
    (site / "secret.yml").write_text(text.replace("  handlers:", told))
    docker.run("mkdir -p /tmp/site", check=True)
    mark = docker.transcript.mark()
    result = docker.ansible(
        [
            {"import_playbook": "secret.yml"},
            *play(
                {"name": "hushed", "command": "echo {{ who }}", "no_log": True},
                {"name": "processes", "shell": look, "delegate_to": "localhost"},
                {"name": "open", "command": f"find {folder} -perm /077 -name extravars", "delegate_to": "localhost"},
                {"name": "folder", "command": f"stat -c %a {folder}", "delegate_to": "localhost"},
            ),
        ],
        extra_vars={"who": "wh1spered"},
        vault_password_file="password",
    )
    seen = result.task("processes").returned["stdout"]
    assert "ansible_runner" in seen
    assert result.task("told").returned["stdout"] == "v4ulted wh1spered\n"
    assert "wh1spered" not in str(result.task("hushed").returned)
    assert result.task("open").returned["stdout"] == ""
    assert result.task("folder").returned["stdout"] == "700"
    entries = docker.transcript.since(mark)
    assert any("told" in each.command for each in entries)
    audit = Path(str(lab.settings.audit_file)).read_text()
    assert '"action":"ansible"' in audit.replace(" ", "")
    for secret in ("v4ulted", "wh1spered", "open sesame"):
        assert secret not in seen
        assert secret not in "\n".join(map(str, entries))
        assert secret not in audit


def test_the_home_directory_is_read_and_not_written(
    docker: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tmp_path / ".ansible/roles/mine/tasks"
    tasks.mkdir(parents=True)
    (tasks / "main.yml").write_text("- {name: of the role, command: 'true'}\n")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert docker.ansible(play(roles=["mine"])).task("of the role").outcome == "changed"
    assert sorted(tmp_path.rglob("*")) == before


def test_the_configuration_of_the_user_counts(docker: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ansible.cfg").write_text("[tags]\nskip = later\n")
    monkeypatch.chdir(tmp_path)
    result = docker.ansible(play({"name": "now", "raw": "true"}, {"name": "later", "raw": "true", "tags": "later"}))
    assert [each.task for each in result.tasks] == ["now"]
    monkeypatch.setenv("ANSIBLE_PYTHON_INTERPRETER", "/no/such/python")
    with pytest.raises(CommandFailed, match="/no/such/python"):
        docker.ansible(play({"command": "true"}))


def test_tags_and_verbosity(docker: Machine) -> None:
    tasks = play({"name": "one", "raw": "true", "tags": "first"}, {"name": "two", "raw": "true", "tags": "second"})
    assert [each.task for each in docker.ansible(tasks, tags=["first"]).tasks] == ["one"]
    result = docker.ansible(tasks, skip_tags="first", verbosity=3)
    assert [each.task for each in result.tasks] == ["two"]
    assert len(result.stdout) > len(docker.ansible(tasks, skip_tags="first").stdout)


def test_raw_and_rexx_need_no_python(bare: Machine) -> None:
    result = bare.ansible(
        play(
            {"name": "raw", "raw": "echo raw"},
            {
                "name": "rexx",
                "rexxinfra.rexxjs.rexxjs": {
                    "source": "PARSE ARG who\nSAY 'hello' who VALUE('COLOUR',,'SYSTEM') DIRECTORY()\nEXIT 0",
                    "args": ["world"],
                    "env": {"COLOUR": "red"},
                    "chdir": "/usr",
                },
            },
        )
    )
    rexx = result.task("rexx").returned
    assert (rexx["rc"], rexx["exit_value"], rexx["stdout_lines"]) == (0, "0", ["hello world red /usr"])
    assert result.task("rexx").outcome == "changed"


def test_rexx_from_a_file_once_and_its_failure(bare: Machine, site: Path) -> None:
    (site / "files/touch.rexx").write_text("ADDRESS SYSTEM 'touch /tmp/made'\nSAY 'made'\n")
    module = "rexxinfra.rexxjs.rexxjs"
    once = play({"name": "once", module: {"script": "touch.rexx", "creates": "/tmp/made"}})
    bare.run("rm -f /tmp/made")
    assert bare.ansible(once, check_idempotent=True).task("once").outcome == "changed"
    with pytest.raises(CommandFailed) as caught:
        bare.ansible(play({"name": "bad", module: {"source": "SAY 'so far'\nx = 1 / 0"}}))
    assert "task 'bad' failed" in str(caught.value)
    assert "so far" in str(caught.value)
    with pytest.raises(CommandFailed, match="source"):
        bare.ansible(play({module: {"args": ["x"]}}))
    with pytest.raises(CommandFailed, match="not done after"):
        bare.ansible(play({module: {"source": "DO FOREVER\nEND", "timeout": 1}}))


def test_a_machine_without_python_says_so(bare: Machine) -> None:
    for tasks in ([{"hosts": "all"}], play({"copy": {"content": "x", "dest": "/tmp/x"}}), play({"command": "true"})):
        with pytest.raises(CommandFailed) as caught:
            bare.ansible(tasks)
        assert caught.value.where == bare.where
        assert "there is no Python in it" in str(caught.value)
        assert "apt-get install -y python3" in str(caught.value)


def test_a_minimal_python_is_named(fresh: Machine) -> None:
    fresh.run("rm -r /usr/lib/python3*/shutil.py", check=True)
    with pytest.raises(CommandFailed) as caught:
        fresh.ansible(play({"name": "copy", "copy": {"content": "x", "dest": "/tmp/x"}}))
    assert "its Python lacks" in str(caught.value)
    assert "shutil" in str(caught.value).partition("hint:")[2]


@pytest.mark.parametrize("missing", ["ansible_runner", "ansible-playbook"])
def test_ansible_that_is_not_installed(docker: Machine, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "ansible_runner":
        monkeypatch.setitem(sys.modules, missing, None)
    else:
        monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(UsageError, match=r"pip install 'pytest-rexxinfra\[ansible\]'"):
        docker.ansible(play({"raw": "true"}))


@pytest.mark.skipif(shutil.which("regina") is None, reason="regina is not on this computer")
def test_the_collection_alone(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text("""
- hosts: localhost
  gather_facts: false
  tasks:
    - rexxinfra.rexxjs.rexxjs:
        source: |
          PARSE ARG who
          SAY 'hello' who VALUE('COLOUR',,'SYSTEM') DIRECTORY()
          EXIT 0
        args: [it's me]
        env: {COLOUR: "dark 'red'"}
        chdir: /usr
        timeout: 30
        interpreter: regina
      register: said
    - debug: {msg: "{{ said.stdout_lines[0] }}, status {{ said.rc }}, changed {{ said.changed }}"}
    - rexxinfra.rexxjs.rexxjs: {source: "EXIT 3", interpreter: regina}
""")
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "HOME": str(tmp_path)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(BIN / "ansible-playbook"), "play.yml"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert json.dumps("hello it's me dark 'red' /usr, status 0, changed True") in done.stdout, done.stdout
    assert "the script ended with status 3" in done.stdout + done.stderr
    assert done.returncode == 2
