"""The command ``rexxinfra``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from . import cli_apply, cli_audit, cli_machines, cli_matrix, cli_rexxfile
from .console import age, events, pairs, plain_errors, size, table
from .deadline import Deadline
from .errors import RexxInfraError, UsageError
from .interrupts import Interrupts

_BUILDING = 1800.0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pytest-rexxinfra")
def main() -> None:
    """REXX in real machines: containers, virtual machines, hosts.

    The tests themselves run under pytest (pytest --rexx-target=docker); this command looks after what
    they need and leave: systems, images, builds, machines.
    """


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@plain_errors
def doctor(as_json: bool) -> None:
    """Tell which systems can be used here, and the command that enables each other one."""
    from .lab import make_driver
    from .settings import Settings
    from .systems import registry

    settings = Settings.load()
    found: list[dict[str, Any]] = []
    for name in registry.names():
        try:
            driver = make_driver(name, events(), settings)
            state = driver.examine()
            found.append(
                {
                    "system": name,
                    "usable": state.usable,
                    "reason": state.reason,
                    "enable": state.hint,
                    "facts": dict(state.facts),
                    "capabilities": sorted(driver.capabilities) if state.usable else [],
                    "summary": driver.summary,
                }
            )
        except RexxInfraError as error:
            found.append({"system": name, "usable": False, "reason": error.message, "enable": error.hint})
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for each in found:
        mark = click.style("usable", fg="green") if each["usable"] else click.style("not usable", fg="yellow")
        click.echo(f"{each['system']}: {mark}, {each['reason']}")
        if each.get("capabilities"):
            click.echo(f"    can: {', '.join(each['capabilities'])}")
        if each["enable"]:
            click.echo(f"    {'to go further' if each['usable'] else 'enable'}: {each['enable']}")


@main.command()
@click.option("-t", "--target", default=None, help="System or SYSTEM:IMAGE.  [default: local]")
@click.option("-b", "--build", default=None, help="REXX build, as for pytest's --rexx-build.  [default: auto]")
@click.option("-i", "--image", default=None, help="Image of the machine.")
@click.option("--timeout", default=None, help="Seconds the script may take.  [default: 60]")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Environment of the script; repeatable.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say where and with what it ran.")
@click.argument("script", metavar="SCRIPT")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT | KEY=VALUE]...")
@plain_errors
def run(
    target: str | None,
    build: str | None,
    image: str | None,
    timeout: str | None,
    env: Sequence[str],
    quiet: bool,
    script: str,
    arguments: Sequence[str],
) -> None:
    """Run a REXX script in a fresh machine, which is gone afterwards.

    SCRIPT is a file, or - for standard input. Its output streams through; the exit status is the
    interpreter's own.
    """
    from .lab import Lab
    from .settings import Settings

    source: str | Path = sys.stdin.read() if script == "-" else Path(script)
    if isinstance(source, Path) and not source.is_file():
        raise UsageError(f"script {script} does not exist", hint=f"it was looked for at {source.absolute()}")
    given = {"target": target, "build": build, "image": image, "timeout": timeout}
    with Lab(Settings.load({**given, "pool": 0}), events()) as lab, Interrupts(lab.hand_over).handled():
        machine = lab.provision(build=lab.build)
        data = b"" if script == "-" or sys.stdin.isatty() else sys.stdin.buffer.read()
        result = machine.rexx(source, *arguments, stdin=data, env=pairs("--env", env), on_output=_pass_through)
    if not quiet:
        value = "" if result.exit_value is None else f", EXIT value {result.exit_value}"
        text = f"[{result.machine}] {result.build}: status {result.rc}{value}, {result.duration:.2f} s"
        click.echo(click.style(text, dim=True), err=True)
    sys.exit(result.rc)


def _pass_through(which: int, data: bytes) -> None:
    stream = sys.stdout.buffer if which == 1 else sys.stderr.buffer
    stream.write(data)
    stream.flush()


@main.group()
def image() -> None:
    """Images of our own that every local system can start from."""


@image.command("build")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@plain_errors
def image_build(names: Sequence[str]) -> None:
    """Build images: names of recipes, or files of your own that end in .toml."""
    from .images import ImageStore

    store = ImageStore(events=events())
    for name in names:
        recipe = store.find(name)
        if recipe is None:
            raise UsageError(f"there is no recipe {name!r}", hint=f"recipes: {', '.join(sorted(store.recipes()))}")
        built = store.ensure(recipe, Deadline(_BUILDING))
        click.echo(f"{built.name} {built.digest[:16]} {size(built.size)} {built.tar}")


@image.command("list")
@plain_errors
def image_list() -> None:
    """List the recipes and the images built from them."""
    from .images import ImageStore

    store = ImageStore(events=events())
    built = list(store.list())
    rows = [
        [each.name, each.digest[:16], size(each.size), age(time.time() - each.created), each.node or ""]
        for each in built
    ]
    known = {each.name for each in built}
    rows += [[name, "not built", "", "", ""] for name in sorted(store.recipes()) if name not in known]
    table("no images", ["IMAGE", "DIGEST", "SIZE", "AGE", "NODE"], rows)


@image.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@plain_errors
def image_rm(names: Sequence[str]) -> None:
    """Remove built images from the cache."""
    from .images import ImageStore

    store = ImageStore(events=events())
    for name in names:
        removed = store.remove(name)
        if not removed:
            raise UsageError(f"no image {name!r} is built", hint="rexxinfra image list")
        for each in removed:
            click.echo(f"removed {each.name} {each.digest[:16]}")


@main.group()
def build() -> None:
    """REXX builds that are kept under a name in the cache."""


@build.command("add")
@click.option("--default", is_flag=True, help="Use it when no build is named.")
@click.argument("name")
@click.argument("what", metavar="BUILD")
@plain_errors
def build_add(name: str, what: str, default: bool) -> None:
    """Keep BUILD under NAME: a binary, a checkout, an archive, github:OWNER/REPO@REF, URL#sha256=HEX."""
    from .rexx import named

    added = named.add(name, what, default=default, events=events(), deadline=Deadline(_BUILDING))
    click.echo(f"{name}: {added.label}")


@build.command("list")
@plain_errors
def build_list() -> None:
    """List the named builds."""
    from .rexx import named

    rows = [
        [each.name, each.label, each.kind, "default" if each.default else "", age(time.time() - each.added)]
        for each in named.list_()
    ]
    table("no named builds", ["NAME", "BUILD", "KIND", "", "AGE"], rows)


@build.command("inspect")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--fresh", is_flag=True, help="Run the build again, even if the facts are known.")
@click.argument("what", metavar="[BUILD]", default="auto")
@plain_errors
def build_inspect(what: str, as_json: bool, fresh: bool) -> None:
    """Tell facts about BUILD: what it is made of, how fast it starts, what its exit status tells.

    BUILD is as for pytest's --rexx-build, by default auto. It is run on this computer, once: the facts
    are then known by its digest and the version of node.
    """
    from .rexx import builds, facts

    listener, deadline = events(), Deadline(_BUILDING)
    found = builds.resolve(what, events=listener, deadline=deadline)
    told = facts.inspect(found, listener, deadline, os.environ, fresh=fresh)
    click.echo(json.dumps(told.as_json(), indent=2) if as_json else told.report())


@build.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@plain_errors
def build_rm(names: Sequence[str]) -> None:
    """Forget named builds and remove what the cache holds of them."""
    from .rexx import named

    for name in names:
        named.remove(name)
        click.echo(f"removed {name}")


for group in (cli_machines, cli_matrix, cli_apply, cli_rexxfile, cli_audit):
    for command in group.COMMANDS:
        main.add_command(command)


if __name__ == "__main__":
    main()
