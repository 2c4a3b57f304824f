"""Where a campaign takes place: engines, the neighbour, strangers, and the directories of its runs."""

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

from . import processes
from .census import Census, Others
from .engine import Engine, PrivateEngine
from .neighbour import Neighbour
from .run import Run
from .strangers import Strangers

_REPOSITORY = Path(__file__).parents[2]
_LONGEST = 120.0


@dataclass(frozen=True)
class Site:
    """An engine with strangers in it."""

    engine: Engine
    strangers: Strangers


class Ground:
    """Everything that outlives a single run."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(3)
        self.folder = Path(tempfile.mkdtemp(prefix="rexx-chaos-"))
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        self._runs = self.folder / "runs"
        self.others = Others()
        self.obstacle: str | None = None
        """Why there is no engine of our own, ``None`` when there is."""
        self._numbers = itertools.count()
        self._sites: list[Site] = []
        self._neighbours: list[Neighbour] = []
        try:
            self.steady  # noqa: B018 - the engine that no run hits
            self.neighbour = self.new_neighbour("neighbour")
        except BaseException:
            self.close()
            raise

    @cached_property
    def steady(self) -> Site:
        """The engine in which the neighbour is; it is never hit."""
        return self._site(self._engine())

    def _engine(self) -> Engine:
        if os.environ.get("REXX_CHAOS_ENGINE") == "shared":
            self.obstacle = "a shared one was asked for"
            return Engine()
        self.obstacle = PrivateEngine.obstacle()
        if self.obstacle is None:
            try:
                return PrivateEngine(self.folder / "steady")
            except (RuntimeError, OSError) as error:
                self.obstacle = str(error)
        return Engine()

    @cached_property
    def mortal(self) -> Site:
        """The engine that is hit. The neighbour is not in it: a crash of dockerd ends all containers."""
        return self._site(PrivateEngine(self.folder / "mortal"))

    def _site(self, engine: Engine) -> Site:
        try:
            image = self._warm(engine)
            strangers = Strangers(engine, image, self.state, f"{self.token}-{len(self._sites)}")
        except BaseException:
            engine.close()
            raise
        site = Site(engine, strangers)
        self._sites.append(site)
        self.others.ids |= strangers.ids
        self.others.folders.add(strangers.folder.name)
        return site

    def _warm(self, engine: Engine) -> str:
        """Let the engine get the images that all runs share; returns the name of the plain one."""
        run = self.run(engine, f"warm{len(self._sites)}", "suite_work.py", "-k", "deploy_before")
        try:
            if not run.wait(_LONGEST) or run.status != 0:
                raise RuntimeError(f"an undisturbed run does not succeed:\n{run.output()}")
        finally:
            run.close()
        found: str = engine.api.images("rexxinfra/mini")[0]["RepoTags"][0]
        return found

    def new_neighbour(self, name: str) -> Neighbour:
        """Another process with machines of its own, which are counted as others' from now on."""
        token = f"{self.token}-{name}"
        self.others.runs.add(token)
        neighbour = Neighbour(self.environment(self.steady.engine, token), self.folder / f"{name}.log")
        self._neighbours.append(neighbour)
        for what, made in neighbour.made.items():
            if what == "local":
                self.others.folders.add(Path(made).name)
            else:
                self.others.ids.add(made)
        return neighbour

    def name(self, number: int) -> str:
        """A new name for a run of plan ``number``."""
        return f"{number}.{next(self._numbers)}"

    def token_of(self, name: str) -> str:
        """What marks everything of a run."""
        return f"{self.token}-{name}"

    def environment(self, engine: Engine, token: str) -> dict[str, str]:
        """Environment of a run: of what belongs to us, only what the run is meant to know."""
        ours = ("REXX_", "DOCKER_", "PYTEST_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours) or name == "REXX_CACHE"}
        clean.pop("PYTHONDONTWRITEBYTECODE", None)
        temporary = self._runs / token / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return {
            **clean,
            **engine.environment,
            processes.MARK: token,
            "REXX_RUN_ID": token,
            "REXX_STATE": str(self.state),
            "REXX_LEDGER": str(self.folder / "ledger.sqlite"),
            "TMPDIR": str(temporary),
            "PYTHONPATH": str(_REPOSITORY),
        }

    def run(self, engine: Engine, name: str, suite: str, *options: str, **more: str) -> Run:
        """Start an inner run; ``more`` goes into its environment."""
        token = self.token_of(name)
        environment = {**self.environment(engine, token), "REXX_CHAOS_SUITE": name, **more}
        options = ("--rexx-target=docker,local", "--rexx-build=regina", "--rexx-require=all", *options)
        return Run(self._runs / token, suite, options, environment)

    def command(self, engine: Engine, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``rexxinfra`` with these arguments."""
        return subprocess.run(
            [sys.executable, "-m", "pytest_rexxinfra.cli", *arguments],
            cwd=self.folder,
            env=self.environment(engine, self.token_of(name)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST,
        )

    def census(self, site: Site) -> Census:
        """The search for what runs have left."""
        return Census(self.token, site.engine, self.state, self._runs, self.others)

    def complaints(self, site: Site, *, crashed: bool = False) -> list[str]:
        """What happened to the neighbour and to strangers; ``crashed`` says that dockerd did."""
        found = (self.neighbour.complaint(), site.strangers.complaint(running=not crashed))
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
        strangers = Others(
            ids={each for site in self._sites for each in site.strangers.ids},
            folders={site.strangers.folder.name for site in self._sites},
        )
        for site in self._sites:
            census = Census(self.token, site.engine, self.state, self._runs, strangers)
            left, _ = census.settle()
            complaints += [f"left at the very end: {each}" for each in left]
            census.clear()
            site.strangers.close()
            site.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return complaints
