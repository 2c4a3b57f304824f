"""Builds from the network, fetched from a server of our own on this computer."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import BuildError, DeadlineExceeded
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.rexx import sources
from pytest_rexxinfra.rexx.builds import PINNED_COMMIT, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BINARY = b"""#!/bin/sh
case "$1" in
  --help) echo "RexxJS stand-in" ;;
  --stdin) cat >/dev/null; echo x ;;
esac
"""


def source_archive(text: str = "1", commit: str | None = COMMIT) -> bytes:
    """What GitHub sends: one top-level directory, the commit in the header."""
    whole = io.BytesIO()
    headers = {"comment": commit} if commit else {}
    with tarfile.open(fileobj=whole, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        member = tarfile.TarInfo("RexxJS-abc/core/src/cli.js")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
    return whole.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``pages``; a page is (status, content, promised length)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, tuple[int, bytes, int | None]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.moved: dict[str, str] = {}
        self.pause = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked.append((self.path, self.headers.get("Authorization")))
        if self.path in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[self.path])
            self.end_headers()
            return
        status, content, promised = server.pages.get(self.path, (404, b"no such thing", None))
        self.send_response(status)
        if promised is not None:
            self.send_header("Content-Length", str(promised))
        self.end_headers()
        with suppress(ConnectionError):
            for start in range(0, len(content), 1 << 20):
                self.wfile.write(content[start : start + (1 << 20)])
                time.sleep(server.pause)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(sources, "_unreachable", {})
    return tmp_path / "cache" / "builds"


@pytest.fixture
def environ(server: Server, tmp_path: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "REXX_GITHUB_URL": server.url}


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


# GitHub


def test_commit_is_fetched_once(server: Server, environ: dict[str, str], cache: Path) -> None:
    server.pages[f"/RexxJS/RexxJS/tar.gz/{COMMIT}"] = (200, source_archive(), None)
    text = f"github:RexxJS/RexxJS@{COMMIT}"
    build = resolve(text, environ=environ)
    assert (build.commit, build.kind, build.files()) == (COMMIT, "checkout", ["core/src/cli.js"])
    assert build.label == f"RexxJS {COMMIT[:7]} (github RexxJS/RexxJS@{COMMIT})"
    for note in (cache / "github").iterdir():
        note.write_text(json.dumps({**json.loads(note.read_text()), "fetched": 1.0}))
    assert resolve(text, environ=environ) == build
    assert len(server.asked) == 1
    assert not list(cache.glob(".*"))


def test_branch_is_fetched_again_after_ten_minutes(server: Server, environ: dict[str, str], cache: Path) -> None:
    page = "/some/fork/tar.gz/fix/a"
    server.pages[page] = (200, source_archive("1"), None)
    first = resolve("github:some/fork@fix/a", environ=environ)
    server.pages[page] = (200, source_archive("2", "f" * 40), None)
    assert resolve("github:some/fork@fix/a", environ=environ) == first
    for note in (cache / "github").iterdir():
        facts = json.loads(note.read_text())
        note.write_text(json.dumps({**facts, "fetched": facts["fetched"] - sources.REMEMBER_SECONDS}))
    second = resolve("github:some/fork@fix/a", environ=environ)
    assert (first.commit, second.commit) == (COMMIT, "f" * 40)
    assert first.digest != second.digest
    assert len(server.asked) == 2
    assert resolve(f"github:some/fork@{COMMIT}", environ=environ).digest == first.digest
    assert len(server.asked) == 2


def test_default_branch(server: Server, environ: dict[str, str]) -> None:
    server.pages["/RexxJS/RexxJS/tar.gz/HEAD"] = (200, source_archive(commit=None), None)
    build = resolve("github:RexxJS/RexxJS", environ=environ)
    assert (build.label, build.commit) == ("RexxJS (github RexxJS/RexxJS)", None)


@pytest.mark.parametrize("text", ["github:", "github:@main", "github:RexxJS", "github:a/b/c", "github:a/../b@c"])
def test_malformed_github_source(text: str, environ: dict[str, str]) -> None:
    with pytest.raises(BuildError, match="names no GitHub source"):
        resolve(text, environ=environ)


def test_unknown_ref(environ: dict[str, str]) -> None:
    with pytest.raises(BuildError, match=r"/RexxJS/RexxJS/tar\.gz/nope: the server says 404") as caught:
        resolve("github:RexxJS/RexxJS@nope", environ=environ)
    assert "GITHUB_TOKEN" in str(caught.value.hint)


def test_connection_refused(environ: dict[str, str]) -> None:
    environ["REXX_GITHUB_URL"] = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(BuildError, match=r"cannot fetch .* Connection refused") as caught:
        resolve("github:RexxJS/RexxJS@main", environ=environ)
    assert "path of a RexxJS checkout" in str(caught.value.hint)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("promise", [True, False])
def test_truncated_download(server: Server, environ: dict[str, str], cache: Path, promise: bool) -> None:
    content = source_archive("x" * 5000)
    cut = content[: len(content) // 2]
    server.pages["/RexxJS/RexxJS/tar.gz/main"] = (200, cut, len(content) if promise else None)
    with pytest.raises(BuildError, match="connection ended after" if promise else "cannot unpack"):
        resolve("github:RexxJS/RexxJS@main", environ=environ)
    assert not list(cache.glob(".*"))


def test_something_that_is_no_archive(server: Server, environ: dict[str, str]) -> None:
    server.pages["/RexxJS/RexxJS/tar.gz/main"] = (200, b"<html>please log in</html>", None)
    with pytest.raises(BuildError, match="cannot unpack github RexxJS/RexxJS@main"):
        resolve("github:RexxJS/RexxJS@main", environ=environ)


@pytest.mark.parametrize("name", ["GITHUB_TOKEN", "GH_TOKEN"])
def test_token_is_sent_to_the_first_host_only(server: Server, environ: dict[str, str], name: str) -> None:
    page = "/RexxJS/RexxJS/tar.gz/main"
    server.moved[page] = "/elsewhere"
    server.pages["/elsewhere"] = (200, source_archive(), None)
    resolve("github:RexxJS/RexxJS@main", environ={**environ, name: "s3cret"})
    assert server.asked == [(page, "Bearer s3cret"), ("/elsewhere", None)]


def test_token_is_not_told(environ: dict[str, str]) -> None:
    with pytest.raises(BuildError) as caught:
        resolve("github:RexxJS/RexxJS@nope", environ={**environ, "GITHUB_TOKEN": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_token_stays_off_plain_http() -> None:
    environ = {"GITHUB_TOKEN": "s3cret"}
    assert sources._token(environ, "http://mirror.example.org") is None
    assert sources._token(environ, "https://codeload.github.com") == "s3cret"


# the pinned commit


def test_auto_takes_the_pinned_commit(server: Server, environ: dict[str, str], tmp_path: Path) -> None:
    environ["PATH"] = str(tmp_path)
    server.pages[f"/RexxJS/RexxJS/tar.gz/{PINNED_COMMIT}"] = (200, source_archive(commit=PINNED_COMMIT), None)
    assert resolve(None, cwd=tmp_path, environ=environ).commit == PINNED_COMMIT
    assert resolve(None, cwd=tmp_path, environ=environ).commit == PINNED_COMMIT
    assert len(server.asked) == 1


@pytest.mark.parametrize("new_process", [False, True])
def test_unreachable_is_remembered(
    server: Server, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, cache: Path, new_process: bool
) -> None:
    def look() -> str:
        with pytest.raises(BuildError) as caught:
            sources.pinned(PINNED_COMMIT, environ, Events(), Deadline(60))
        return caught.value.message

    assert "the server says 404" in look()
    if new_process:
        monkeypatch.setattr(sources, "_unreachable", {})
    assert "(tried less than 10 minutes ago)" in look()
    assert len(server.asked) == 1
    monkeypatch.setattr(sources, "REMEMBER_SECONDS", 0.0)
    assert "tried" not in look()
    assert len(server.asked) == 2


def test_connecting_has_a_limit_of_its_own(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(BuildError, match=r"no connection to 127\.0\.0\.1 within 0\.2 s"):
        resolve("github:RexxJS/RexxJS@main", environ=environ)
    assert time.monotonic() - started < 3


# any URL


def test_url_of_an_archive(server: Server, environ: dict[str, str]) -> None:
    content = source_archive()
    server.pages["/a/rexxjs.tgz?sig=1"] = (200, content, len(content))
    text = f"{server.url}/a/rexxjs.tgz?sig=1#sha256={hashlib.sha256(content).hexdigest()}"
    build = resolve(text, environ=environ)
    assert build.label == f"RexxJS {COMMIT[:7]} (archive rexxjs.tgz)"
    assert resolve(text, environ=environ) == build
    assert len(server.asked) == 1


def test_url_of_a_binary(server: Server, environ: dict[str, str]) -> None:
    server.pages["/rexx-linux"] = (200, BINARY, None)
    digest = hashlib.sha256(BINARY).hexdigest()
    text = f"{server.url}/rexx-linux#sha256={digest.upper()}"
    build = resolve(text, environ=environ)
    assert (build.label, build.digest) == ("RexxJS binary rexx-linux", digest)
    assert resolve(text, environ=environ) == build
    assert len(server.asked) == 1


@pytest.mark.parametrize("fragment", ["", "#", "#sha256=", "#sha256=abc", "#md5=" + "0" * 32])
def test_url_without_checksum(fragment: str, server: Server, environ: dict[str, str]) -> None:
    with pytest.raises(BuildError, match="comes without a checksum") as caught:
        resolve(f"{server.url}/rexx{fragment}", environ=environ)
    assert "#sha256=HEX" in str(caught.value.hint)
    assert server.asked == []


def test_url_with_wrong_checksum(server: Server, environ: dict[str, str], cache: Path) -> None:
    server.pages["/rexx"] = (200, BINARY, None)
    with pytest.raises(BuildError, match="is not the file that was asked for: its sha256 is"):
        resolve(f"{server.url}/rexx#sha256={'0' * 64}", environ=environ)
    assert not (cache / ("0" * 64)).exists()
    assert not list(cache.glob(".*"))


def test_secrets_of_a_url_are_not_told(server: Server, environ: dict[str, str]) -> None:
    text = f"{server.url}/rexx?token=s3cret#sha256={'0' * 64}"
    with pytest.raises(BuildError, match="the server says 404") as caught:
        resolve(text, environ=environ)
    assert "s3cret" not in str(caught.value)
    assert sources.shown("https://me:s3cret@example.org/x?y=s3cret") == "https://example.org/x"


def test_download_has_a_limit(server: Server, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_BYTES", 2 << 20)
    server.pages["/rexx"] = (200, b"x" * (3 << 20), None)
    with pytest.raises(BuildError, match="larger than 2 MiB"):
        resolve(f"{server.url}/rexx#sha256={'0' * 64}", environ=environ)


def test_download_keeps_the_deadline(server: Server, environ: dict[str, str]) -> None:
    server.pause = 0.1
    server.pages["/rexx"] = (200, b"x" * (20 << 20), None)
    with pytest.raises(DeadlineExceeded, match=r"fetch http://127\.0\.0\.1:\d+/rexx: not done after 0\.4 s"):
        resolve(f"{server.url}/rexx#sha256={'0' * 64}", environ=environ, deadline=Deadline(0.4))


def test_stalled_download_keeps_the_deadline(server: Server, environ: dict[str, str]) -> None:
    server.pause = 3
    server.pages["/rexx"] = (200, b"x" * (2 << 20), None)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="rexx: not done after"):
        resolve(f"{server.url}/rexx#sha256={'0' * 64}", environ=environ, deadline=Deadline(0.4))
    assert time.monotonic() - started < 2
