"""Where a campaign takes place: its places, the neighbour, strangers, and the directories of its runs."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pytest_rexxinfra.ledger import Ledger

from . import processes
from .census import Census, Others
from .engine import Engine
from .groups import ControlGroups
from .libvirt_host import LibvirtHost
from .libvirt_strangers import Domains
from .neighbour import Neighbour
from .place import DaemonPlace, Place
from .run import Run
from .strangers import Containers, Folder, Strangers
from .terrain import Terrain

_REPOSITORY = Path(__file__).parents[2]
_LONGEST = 120.0
_OURS = ("REXX_", "DOCKER_", "PYTEST_", "CONTAINER", "PYTHONDONTWRITEBYTECODE")
_KEPT = ("REXX_CACHE",)


@dataclass(frozen=True)
class Site:
    """A place with strangers in it. ``standing`` are the ids of all that was there before the neighbour came."""

    place: Place
    strangers: list[Strangers]
    standing: set[str]

    @property
    def engine(self) -> Engine:
        """The place, which must be an engine."""
        assert isinstance(self.place, Engine)
        return self.place

    @property
    def daemon(self) -> DaemonPlace:
        """The place, which must have a daemon that can be hit."""
        assert isinstance(self.place, DaemonPlace)
        return self.place


class Ground:
    """Everything of one campaign that outlives a single run."""

    def __init__(self, terrain: Terrain) -> None:
        self.terrain = terrain
        self.token = secrets.token_hex(3)
        self.folder = Path(tempfile.mkdtemp(prefix="rexx-chaos-"))
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        self._runs = self.folder / "runs"
        self.ledger = Ledger(self.folder / "ledger.sqlite")
        self._groups = ControlGroups(self.ledger)
        self.others = Others()
        self.obstacle: str | None = None
        """Why there is no place of our own, ``None`` when there is."""
        self._numbers = itertools.count()
        self._sites: list[Site] = []
        self._neighbours: list[Neighbour] = []
        try:
            self.steady  # noqa: B018 - the place that no run hits
            self.neighbour = self.new_neighbour("neighbour")
        except BaseException:
            self.close()
            raise

    @cached_property
    def steady(self) -> Site:
        """The place in which the neighbour is; it is never hit."""
        return self._site(self._place())

    def _place(self) -> Place:
        shared = self.terrain.shared
        if shared and os.environ.get("REXX_CHAOS_ENGINE") == "shared":
            self.obstacle = "a shared one was asked for"
            return shared()
        self.obstacle = self.terrain.obstacle()
        if self.obstacle is None:
            try:
                return self.terrain.place(self.folder / "steady")
            except (RuntimeError, OSError) as error:
                self.obstacle = str(error)
        if shared is None:
            raise RuntimeError(self.obstacle)
        return shared()

    @cached_property
    def mortal(self) -> Site:
        """The place whose daemon is hit. The neighbour is not in it, unless its machines outlive a crash."""
        return self.steady if self.terrain.outlive else self._site(self.terrain.place(self.folder / "mortal"))

    def bury_mortal(self) -> None:
        """Let go of an engine that is broken; the next one to be hit is a new one."""
        site = self.mortal
        for stranger in site.strangers:
            if isinstance(stranger, Folder):
                stranger.close()
        site.place.close()
        self._sites.remove(site)
        del self.mortal

    def _site(self, place: Place) -> Site:
        site = Site(place, [], set())
        self._sites.append(site)
        self._warm(place)
        left, _ = self.census(site).settle()
        if left:
            raise RuntimeError(f"an undisturbed run leaves {', '.join(map(str, left))}")
        token = f"{self.token}-{next(self._numbers)}"
        match place:
            case Engine():
                site.strangers.append(Containers(place, token))
            case LibvirtHost():
                site.strangers.append(Domains(place, token))
        for system in self.terrain.systems:
            if (self.state / system).is_dir() and not isinstance(place, LibvirtHost):
                site.strangers.append(Folder(self.state, system, token))
        site.standing.update(_there(place), *(each.ids for each in site.strangers))
        self.others.ids |= site.standing
        return site

    def _warm(self, place: Place) -> None:
        """Let the systems get the images that all runs share."""
        run = self.run(
            place, f"warm.{next(self._numbers)}", "suite_work.py", "-k", "deploy_before or booted", REXX_CHAOS_SHARE="1"
        )
        try:
            if not run.wait(_LONGEST) or run.status != 0:
                raise RuntimeError(f"an undisturbed run does not succeed:\n{run.output()}")
        finally:
            run.close()

    def new_neighbour(self, name: str) -> Neighbour:
        """Another process with machines of its own, which are counted as others' from now on."""
        token = f"{self.token}-{name}"
        self.others.runs.add(token)
        command = [*self.steady.place.words, sys.executable, "-m", Neighbour.__module__, self.target]
        neighbour = Neighbour(command, self.environment(self.steady.place, token), self.folder / f"{name}.log")
        self._neighbours.append(neighbour)
        self.others.ids |= {*neighbour.made.values(), *_there(self.steady.place)}
        return neighbour

    @property
    def target(self) -> str:
        """What ``--rexx-target`` of a run says."""
        return ",".join(self.terrain.systems)

    def name(self, number: int) -> str:
        """A new name for a run of plan ``number``."""
        return f"{number}.{next(self._numbers)}"

    def token_of(self, name: str) -> str:
        """What marks everything of a run."""
        return f"{self.token}-{name}"

    def environment(self, place: Place, token: str) -> dict[str, str]:
        """Environment of a run: of what belongs to us, only what the run is meant to know."""
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(_OURS) or name == "REXX_CACHE"
        }
        clean.pop("PYTHONDONTWRITEBYTECODE", None)
        temporary = self._runs / token / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return {
            **clean,
            **place.environment,
            processes.MARK: token,
            "REXX_CHAOS_LIMIT": str(self.terrain.limit),
            "REXX_CHAOS_SHARE": str(self.terrain.share),
            "REXX_RUN_ID": token,
            "REXX_STATE": str(self.state),
            "REXX_LEDGER": str(self.folder / "ledger.sqlite"),
            "TMPDIR": str(temporary),
            "PYTHONPATH": str(_REPOSITORY),
        }

    def run(self, place: Place, name: str, suite: str, *options: str, **more: str) -> Run:
        """Start an inner run; ``more`` goes into its environment."""
        token = self.token_of(name)
        environment = {**self.environment(place, token), "REXX_CHAOS_SUITE": name, **more}
        options = (f"--rexx-target={self.target}", "--rexx-build=regina", "--rexx-require=all", *options)
        return Run(self._runs / token, suite, options, environment, place.words)

    def command(self, place: Place, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``rexxinfra`` with these arguments."""
        return subprocess.run(
            [*place.words, sys.executable, "-m", "pytest_rexxinfra.cli", *arguments],
            cwd=self.folder,
            env=self.environment(place, self.token_of(name)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST,
        )

    def census(self, site: Site, others: Others | None = None) -> Census:
        """The search for what runs have left."""
        others = others or self.others
        shelves = [self.folder / each for each in self.terrain.shelves]
        return Census(
            self.token,
            site.place,
            self.terrain.systems,
            self.state,
            shelves,
            self._runs,
            self._groups,
            others,
            self.terrain.limit,
        )

    def complaints(self, site: Site, *, crashed: bool = False) -> list[str]:
        """What happened to the neighbour and to strangers; ``crashed`` says that the daemon did."""
        running = self.terrain.outlive or not crashed
        found = (self.neighbour.complaint(), *(each.complaint(running=running) for each in site.strangers))
        return [complaint for complaint in found if complaint]

    def logs(self, token: str) -> str:
        """What the log files beside the state of the runs say of one of them."""
        texts = []
        for path in sorted({*self.folder.glob("*.log"), *self.state.rglob("*.log")}):
            lines = [line for line in path.read_text(errors="replace").splitlines() if token in line]
            texts += [f"--- {path.name} ---", *lines] if lines else []
        return "\n".join(texts)

    def close(self) -> list[str]:
        """Take everything down; returns what was wrong at the very end."""
        complaints = [complaint for each in self._neighbours if (complaint := each.close())]
        for site in self._sites:
            census = self.census(site, Others({each for some in self._sites for each in some.standing}))
            left, _ = census.settle()
            complaints += [f"left at the very end: {each}" for each in left]
            census.clear()
            for stranger in site.strangers:
                stranger.close()
            site.place.close()
        self.ledger.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return complaints


def _there(place: Place) -> set[str]:
    """Ids of all that is in a place now."""
    return {left.id for left in place.remains(lambda _identity, _labels: True)}
