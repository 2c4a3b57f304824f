"""The pytest plugin: declares options, marker and hooks; imports nothing heavy until a machine is wanted."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from . import fixtures, hookspecs
from .fixtures import rexx_session, started_session, xdist_broker

_SCRIPTS = pytest.StashKey[bool]()

OPTIONS = {
    "target": (
        "SYSTEM[,SYSTEM...]",
        "where the tests' machines are: a system such as docker, with an image as docker:debian-12; "
        "several run every such test once each (default: local)",
    ),
    "build": (
        "BUILD[,BUILD...]",
        "the REXX build to test: a binary, a RexxJS checkout, an archive, github:OWNER/REPO@REF, "
        "URL#sha256=HEX, a name from `rexxinfra build list`, regina, or auto (default); with several, "
        "tests that run REXX run once with each. May be repeated",
    ),
    "scripts": (
        "PATTERN[,...]",
        "files that are tests themselves, such as '*.rexx', wherever pytest looks for tests; off for none. "
        "Left out: .rexx files that the command line names, and directories of REXX tests that it names "
        "together with --rexx-target",
    ),
    "update-expected": (None, "write what each script prints to NAME.out beside it, or correct NAME.expect"),
    "compare": ("BUILD", "run each script on this build too, such as regina, and fail where the two differ"),
    "known-differences": ("FILE", "differences that --rexx-compare does not count, in TOML, each with a reason"),
    "image": (
        "IMAGE",
        "image of the machines: one of `rexxinfra image list` or the system's own name of one",
    ),
    "require": (
        "SYSTEM[,...]",
        "systems that must be usable: without them tests fail instead of being skipped",
    ),
    "timeout": ("SECONDS", "longest time for one command or script (default: 60)"),
    "keep": ("never|failed|all", "machines that are left running for you to look into (default: never)"),
    "reuse": (None, "take kept machines of the same spec, reset, rather than make new ones"),
    "pool": ("N", "machines made ahead for the next tests, in each process; 0 for none (default: 2)"),
    "max": ("N|SYSTEM=N[,...]", "most machines at a time, of all xdist workers together (default: no bound)"),
    "artifacts": (
        "DIR",
        "directory for what each test's machines leave: commands, scripts, logs, and the files that "
        "@pytest.mark.collect names",
    ),
    "policy": (
        "strict|moderate|permissive",
        "what machines may be and what may be run in them, docs/policy.md (default: moderate)",
    ),
    "audit": ("FILE|off", "file in which all that is done to machines is written down, one line of JSON each"),
    "ssh-scratch": (
        "DIR",
        "directory of hosts over SSH in which a run puts its files, and nowhere else (default: /var/tmp)",
    ),
    "ssh-identity": ("FILE[,...]", "private keys for hosts over SSH, instead of ~/.ssh/id_* and all of the agent's"),
    "ssh-config": ("FILE|none", "configuration of ssh for hosts over SSH (default: ~/.ssh/config)"),
    "ssh-known-hosts": ("FILE", "keys of hosts over SSH (default: what the configuration says, ~/.ssh/known_hosts)"),
    "ssh-host-keys": (
        "strict|accept-new|off",
        "what becomes of hosts whose key is not known: refused, remembered, not asked (default: strict)",
    ),
    "kvm-nodes": ("NAME=URI,…", "libvirt hosts by the names that targets have for them: kvm://NAME,NAME"),
    "kvm-acceleration": ("auto|kvm|tcg", "whether the processor runs guests itself (default: auto, by trying)"),
    "vagrant-provider": ("docker|libvirt", "with what vagrant makes machines (default: docker)"),
    "vagrantfile": ("PATH[#NAME]", "Vagrantfile of yours for the machines of vagrant, and which of several in it"),
    "allow-leaks": (None, "only warn, rather than fail the run, when something could not be removed"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rexxinfra", "REXX in real machines (pytest-rexxinfra)")
    for name, (metavar, text) in OPTIONS.items():
        key = name.replace("-", "_")
        takes: dict[str, Any] = {"metavar": metavar} if metavar else {"action": "store_true", "default": None}
        if name == "build":
            takes["action"] = "append"
        group.addoption(
            f"--rexx-{name}",
            dest=f"rexx_{key}",
            help=f"{text}. Also $REXX_{key.upper()} and {key} in [tool.rexxinfra]",
            **takes,
        )


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "machine(image, memory, cpus, pids, network, env, ports, egress, volumes, command, health, user, hostname, "
        "boot, scope): what the test's machine must be; scope is 'test' (default), 'module' or 'run'",
    )
    config.addinivalue_line(
        "markers",
        "collect(pattern, ...): files of the test's machines that --rexx-artifacts fetches, such as '/var/log/**'",
    )
    config.addinivalue_line(
        "markers", "requires(what, ...): what @requires names before a test routine of a REXX script"
    )
    config.pluginmanager.register(fixtures, "rexxinfra-fixtures")


def _asked_for(config: pytest.Config) -> bool:
    """Whether this run says anything about machines on its command line or in its environment."""
    names = [name.replace("-", "_") for name in OPTIONS]
    given = any(config.getoption(f"rexx_{name}") is not None for name in names)
    return given or any(os.environ.get(f"REXX_{name.upper()}") for name in names)


def pytest_sessionstart(session: pytest.Session) -> None:
    if _asked_for(session.config) and not session.config.option.help:
        rexx_session(session.config).check_options()


def pytest_report_header(config: pytest.Config) -> list[str]:
    started = started_session(config)
    return started.header() if started else []


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    config = parent.config
    if file_path.suffix != ".rexx" and not _names_scripts(config):
        return None
    if not rexx_session(config).scripts.asked_for(file_path, parent.session):
        return None
    from .collector import RexxFile

    return RexxFile.from_parent(parent, path=file_path)


def _names_scripts(config: pytest.Config) -> bool:
    """Whether this run says which files are scripts; quick, for it is asked about every file."""
    if _SCRIPTS not in config.stash:
        file = config.rootpath / "pyproject.toml"
        config.stash[_SCRIPTS] = bool(
            config.getoption("rexx_scripts")
            or os.environ.get("REXX_SCRIPTS")
            or (file.is_file() and b"[tool.rexxinfra" in file.read_bytes() and b"scripts" in file.read_bytes())
        )
    return config.stash[_SCRIPTS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rexx_target" in metafunc.fixturenames:
        lab = rexx_session(metafunc.config).lab
        metafunc.parametrize("rexx_target", lab.targets, ids=map(str, lab.targets), indirect=True)
        if "rexx_build" in metafunc.fixturenames and "," in lab.settings.build:
            metafunc.parametrize("rexx_build", list(lab.builds.values()), ids=list(lab.builds), indirect=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    broker = xdist_broker(node.config)
    named = node.config.args_source is pytest.Config.ArgsSource.ARGS
    node.workerinput["rexxinfra"] = {"run": broker.run, "address": broker.address, "named": named}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    started = started_session(item.config)
    if started:
        started.look_ahead(item, nextitem)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    started = started_session(item.config)
    if started and call.excinfo is not None:
        started.shorten(call.excinfo)
    report = yield
    if started:
        started.explain(item, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    started = started_session(session.config)
    if started:
        started.finish(session)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    told = getattr(node, "workeroutput", {}).get("rexxinfra")
    if told:
        rexx_session(node.config).add(told)


def pytest_unconfigure(config: pytest.Config) -> None:
    started = started_session(config)
    if started:
        started.interrupts.restore()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    started = started_session(config)
    if started:
        _write_section(terminalreporter, "rexxinfra: builds and targets", started.matrix())
        _write_section(terminalreporter, "rexxinfra", started.summary())
        if os.environ.get("GITHUB_ACTIONS") == "true" and not hasattr(config, "workerinput"):
            from .github import error_commands

            for line in error_commands(terminalreporter.stats, config):
                terminalreporter.line(line)


def _write_section(terminalreporter: Any, title: str, lines: Sequence[str]) -> None:
    if lines:
        terminalreporter.section(title, sep="-")
        for line in lines:
            terminalreporter.line(line)
