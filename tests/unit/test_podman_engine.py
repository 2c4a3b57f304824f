"""How podman's answers are read."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import pytest
from docker.errors import APIError, NotFound

from pytest_rexxinfra.systems.podman_engine import PodmanEngine

# What podman 4.3 answers while another request removes the container.
GONE = b'{"cause":"no such container","message":"container 12 does not exist in database: no such container"}'


@contextmanager
def answering(
    monkeypatch: pytest.MonkeyPatch, answers: Iterator[tuple[int, bytes]], asked: list[str] | None = None
) -> Iterator[None]:
    """A podman service that gives these answers, whatever it is ``asked``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = next(answers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("CONTAINER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_container_is_removed_without_being_asked_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    with answering(monkeypatch, itertools.repeat((200, b"[]")), asked):
        PodmanEngine().remove("it")
    method, path, query = re.fullmatch(r"(\w+) ([^?]+)\?(.*)", asked[-1]).groups()  # type: ignore[union-attr]
    assert (method, path.rpartition("/libpod/")[2]) == ("DELETE", "containers/it")
    assert parse_qs(query) == {"force": ["true"], "volumes": ["true"], "timeout": ["0"]}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, GONE, NotFound),
        (404, GONE, NotFound),
        (409, GONE, APIError),
        (500, b'{"cause":"no such file or directory","message":"crun: no such file or directory"}', APIError),
    ],
)
def test_what_is_just_being_removed_is_not_found(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, kind: type[APIError]
) -> None:
    with answering(monkeypatch, itertools.repeat((status, body))), pytest.raises(APIError) as caught:
        PodmanEngine().api.inspect_container("12")
    assert type(caught.value) is kind


def test_podman_is_asked_again_when_a_container_ends_while_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = (500, b'{"cause":"no such process","message":"read /proc/9/cgroup: no such process"}')
    with answering(monkeypatch, iter([failed, (500, GONE), (200, b"[]"), failed, (201, b"{}")])):
        assert PodmanEngine().api.containers() == []
        with pytest.raises(APIError) as caught:
            PodmanEngine().api.create_container("image")
    assert caught.value.status_code == 500


def test_podman_is_asked_again_for_a_network_when_an_interface_goes_while_it_looks_for_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = (500, b'{"cause":"no such network interface","message":"route ip+net: no such network interface"}')
    with answering(monkeypatch, iter([failed, (201, b'{"Id":"12"}'), failed])):
        assert PodmanEngine().api.create_network("it")["Id"] == "12"
        with pytest.raises(APIError) as caught:
            PodmanEngine().api.create_volume("it")
    assert caught.value.status_code == 500
