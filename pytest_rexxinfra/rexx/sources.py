"""Builds from the network: files by URL with a checksum, and RexxJS sources from GitHub."""

from __future__ import annotations

import hashlib
import http.client
import re
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..deadline import Deadline
from ..errors import BuildError
from ..events import Events
from . import archives, store

REPOSITORY = "RexxJS/RexxJS"
GITHUB_URL = "https://codeload.github.com"
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
FETCH_SECONDS = 600.0
MOST_BYTES = 1024**3
REMEMBER_SECONDS = 600.0
"""How long a branch is taken to stand where it stood, and GitHub to be out of reach."""

_GITHUB = re.compile(r"github:([A-Za-z0-9-]+)/([A-Za-z0-9._-]+?)(?:@([A-Za-z0-9._/+-]+))?")
_FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
_unreachable: dict[str, tuple[float, str]] = {}


@dataclass(frozen=True)
class GitHubSource:
    """``github:OWNER/REPO@REF``; without a ref it is the default branch."""

    repository: str
    ref: str

    @classmethod
    def parse(cls, text: str) -> GitHubSource:
        """Raises `BuildError` for anything that is not of this form."""
        found = _GITHUB.fullmatch(text)
        if not found or ".." in text:
            raise BuildError(
                f"{text} names no GitHub source",
                hint=f"write github:OWNER/REPO@REF, such as github:{REPOSITORY}@main",
            )
        owner, name, ref = found.groups()
        return cls(f"{owner}/{name}", ref or "HEAD")

    def __str__(self) -> str:
        return f"github {self.repository}" + ("" if self.ref == "HEAD" else f"@{self.ref}")

    @property
    def is_commit(self) -> bool:
        return _FULL_COMMIT.fullmatch(self.ref) is not None

    def cached(self, base: str) -> Path | None:
        """The unpacked sources if they are in the cache and, for a branch, not older than 10 minutes."""
        facts = store.read_facts(self._note(base))
        digest, fetched = facts.get("digest"), facts.get("fetched")
        if not isinstance(digest, str) or not isinstance(fetched, int | float):
            return None
        fresh = self.is_commit or 0 <= time.time() - fetched < REMEMBER_SECONDS
        unpacked = store.builds_dir() / digest
        return unpacked if fresh and unpacked.is_dir() else None

    def fetch(self, environ: Mapping[str, str], events: Events, deadline: Deadline) -> Path:
        """The directory in the cache with the unpacked sources; downloads them when they are not there.

        Raises `BuildError`. A token in ``GITHUB_TOKEN`` or ``GH_TOKEN`` is sent to the host asked first,
        over https or to this computer only, and not to where that one redirects.
        """
        base = base_url(environ)
        note = self._note(base)
        with store.locked(f"github-{note.stem}", deadline):
            found = self.cached(base)
            if found is not None:
                return found
            url = f"{base}/{self.repository}/tar.gz/{urllib.parse.quote(self.ref)}"
            with (
                events.step("controller", f"fetch {self}"),
                downloaded(url, environ, deadline, token=_token(environ, base)) as (archive, digest),
            ):
                unpacked = archives.unpack(archive, str(self), events=events, deadline=deadline)
            facts = {"digest": digest, "fetched": time.time(), "source": str(self)}
            store.write_facts(note, facts)
            commit = archives.commit_of(digest)
            if commit and commit != self.ref:
                store.write_facts(GitHubSource(self.repository, commit)._note(base), facts)
            return unpacked

    def _note(self, base: str) -> Path:
        key = hashlib.sha256(f"{base} {self.repository} {self.ref}".encode()).hexdigest()[:32]
        return store.builds_dir() / "github" / f"{key}.json"


def base_url(environ: Mapping[str, str]) -> str:
    """Where archives of repositories come from; ``REXX_GITHUB_URL`` names a mirror."""
    return (environ.get("REXX_GITHUB_URL") or GITHUB_URL).rstrip("/")


def pinned(commit: str, environ: Mapping[str, str], events: Events, deadline: Deadline) -> tuple[GitHubSource, Path]:
    """The RexxJS sources of ``commit``; when fetching failed in the last 10 minutes, fails at once."""
    source = GitHubSource(REPOSITORY, commit)
    base = base_url(environ)
    found = source.cached(base)
    if found is not None:
        return source, found
    reason = _known_unreachable(base)
    if reason is not None:
        raise BuildError(f"{reason} (tried less than {REMEMBER_SECONDS / 60:g} minutes ago)")
    try:
        return source, source.fetch(environ, events, deadline)
    except BuildError as error:
        _unreachable[base] = (time.time(), error.message)
        store.write_facts(_unreachable_note(), {"base": base, "at": time.time(), "reason": error.message})
        raise


def split_checksum(text: str) -> tuple[str, str]:
    """The URL and the sha256 that follows it; raises `BuildError` when there is none."""
    url, _, fragment = text.partition("#")
    digest = fragment.removeprefix("sha256=").lower()
    if not fragment.startswith("sha256=") or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BuildError(
            f"{shown(url)} comes without a checksum",
            hint="append #sha256=HEX with the 64 digits that `sha256sum` prints for the file",
        )
    return url, digest


def shown(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextmanager
def downloaded(
    url: str,
    environ: Mapping[str, str],
    deadline: Deadline,
    *,
    token: str | None = None,
    digest: str | None = None,
) -> Iterator[tuple[Path, str]]:
    """The content of ``url`` as a file that lives as long as the block, and its sha256.

    Raises `BuildError` when it cannot be had completely, is larger than 1 GiB, or is not what
    ``digest`` says; `DeadlineExceeded` after ``deadline``, at most 10 minutes.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "pytest-rexxinfra"})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with tempfile.TemporaryDirectory(dir=store.builds_dir(), prefix=".fetch-") as folder:
        path = Path(folder) / "content"
        try:
            actual = _copy(request, path, deadline)
        except urllib.error.HTTPError as error:
            error.close()
            raise BuildError(
                f"{shown(url)}: the server says {error.code} {error.reason}", hint=_http_hint(error.code)
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            deadline.check(f"fetch {shown(url)}")
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise BuildError(
                f"cannot fetch {shown(url)}: {reason}",
                hint="without the network, give the path of a RexxJS checkout or binary on this computer",
            ) from None
        if digest is not None and actual != digest:
            raise BuildError(
                f"{shown(url)} is not the file that was asked for: its sha256 is {actual}, not {digest}",
                hint="the file changed or was tampered with; correct the checksum only if you trust it",
            )
        yield path, actual


def _copy(request: urllib.request.Request, path: Path, deadline: Deadline) -> str:
    opener = urllib.request.build_opener(_Http, _Https)
    whole, size = hashlib.sha256(), 0
    what, limit = f"fetch {shown(request.full_url)}", deadline.within(FETCH_SECONDS)
    patience = limit.within(READ_SECONDS).remaining()
    with opener.open(request, timeout=patience) as response, path.open("wb") as file:
        promised = response.headers.get("Content-Length")
        while block := response.read(1 << 20):
            deadline.check(what)
            limit.check(what)
            size += len(block)
            if size > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
            whole.update(block)
            file.write(block)
    if promised is not None and promised.isdigit() and int(promised) != size:
        raise ValueError(f"the connection ended after {size} of {promised} bytes")
    return whole.hexdigest()


class _HttpConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _HttpsConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpConnection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpsConnection, req)


def _connect(connection: http.client.HTTPConnection, connect: Callable[[], None]) -> None:
    """Connect within 5 s in all; a socket's own timeout leaves out name lookup and the next address."""
    failures: list[Exception] = []
    patience = connection.timeout

    def attempt() -> None:
        try:
            connect()
        except Exception as error:
            failures.append(error)

    connection.timeout = CONNECT_SECONDS
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if thread.is_alive():
        raise TimeoutError(f"no connection to {connection.host} within {CONNECT_SECONDS:g} s")
    if failures:
        raise failures[0]
    connection.sock.settimeout(patience)


def _token(environ: Mapping[str, str], base: str) -> str | None:
    parts = urllib.parse.urlsplit(base)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        return None
    return environ.get("GITHUB_TOKEN") or environ.get("GH_TOKEN") or None


def _http_hint(status: int) -> str | None:
    if status in (401, 403, 404):
        return "check the name and the ref; what is private needs a token in GITHUB_TOKEN"
    return "try again later" if status == 429 or status >= 500 else None


def _unreachable_note() -> Path:
    return store.builds_dir() / "unreachable.json"


def _known_unreachable(base: str) -> str | None:
    if base in _unreachable:
        at, reason = _unreachable[base]
    else:
        facts = store.read_facts(_unreachable_note())
        if facts.get("base") != base or not isinstance(facts.get("at"), int | float):
            return None
        at, reason = float(facts["at"]), str(facts.get("reason"))
    return reason if 0 <= time.time() - at < REMEMBER_SECONDS else None
