"""Requests to an incus that the test plays."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import DeadlineExceeded, SystemUnavailable
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.systems.incus_api import IncusApi, Refused, place

Answers = dict[str, Any]


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """What is answered, by path; what is not there is not found."""
    found: Answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = found.get(self.path.partition("?")[0], _error(404, "not here"))
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_GET

        def address_string(self) -> str:
            return "test"

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.delenv("INCUS_DIR", raising=False)
    monkeypatch.setenv("INCUS_SOCKET", str(tmp_path / "socket"))
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "socket"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def _sync(metadata: Any) -> Any:
    return {"type": "sync", "metadata": metadata}


def _error(code: int, text: str) -> Any:
    return {"type": "error", "error": text, "error_code": code}


def _operation(code: int, error: str = "", metadata: Any = None) -> tuple[Any, Any]:
    begun = {"type": "async", "metadata": {"id": "op"}}
    return begun, _sync({"id": "op", "status_code": code, "status": "x", "err": error, "metadata": metadata})


def test_what_is_there_and_what_is_not(answers: Answers) -> None:
    answers["/1.0/instances/a%2Fb"] = _sync({"name": "a/b"})
    api = IncusApi()
    assert api.get(place("instances", "a/b")) == {"name": "a/b"}
    assert api.find(place("instances", "c")) is None
    with pytest.raises(Refused, match="not here") as caught:
        api.get(place("instances", "c"))
    assert (caught.value.code, caught.value.command) == (404, "GET /1.0/instances/c")


def test_a_refusal_is_not_taken_for_nothing(answers: Answers) -> None:
    answers["/1.0/x"] = _error(403, "not for you")
    with pytest.raises(Refused, match="not for you"):
        IncusApi().find("/1.0/x")


def test_operations_are_waited_for(answers: Answers) -> None:
    answers["/1.0/x"], answers["/1.0/operations/op/wait"] = _operation(200, metadata={"fingerprint": "f"})
    assert IncusApi().run("POST", "/1.0/x", {}, deadline=Deadline(5)) == {"fingerprint": "f"}


def test_an_operation_that_fails(answers: Answers) -> None:
    answers["/1.0/x"], answers["/1.0/operations/op/wait"] = _operation(400, "disk is full")
    with pytest.raises(Refused, match="disk is full") as caught:
        IncusApi().run("PUT", "/1.0/x", {}, deadline=Deadline(5))
    assert caught.value.command == "PUT /1.0/x"


def test_an_operation_that_goes_on(answers: Answers) -> None:
    answers["/1.0/x"], answers["/1.0/operations/op/wait"] = _operation(103)
    with pytest.raises(DeadlineExceeded, match=r"not done after 0\.5 s"):
        IncusApi().run("PUT", "/1.0/x", {}, deadline=Deadline(0.5))


def test_an_answer_that_is_none(answers: Answers) -> None:
    answers["/1.0/x"] = b"<html>"
    with pytest.raises(Refused, match="<html>"):
        IncusApi().get("/1.0/x")


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCUS_DIR", "/somewhere")
    monkeypatch.delenv("INCUS_SOCKET", raising=False)
    assert IncusApi().socket_path == "/somewhere/unix.socket"
    monkeypatch.setenv("INCUS_SOCKET", str(tmp_path / "none"))
    with pytest.raises(SystemUnavailable, match="no incus daemon answers") as caught:
        IncusApi().get("/1.0")
    assert str(tmp_path / "none") in caught.value.message
    assert caught.value.hint
    found = make_driver("incus", Events()).probe()
    assert not found.usable
    assert found.hint == caught.value.hint


def test_a_socket_that_nobody_listens_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "socket").write_text("")
    monkeypatch.setenv("INCUS_SOCKET", str(tmp_path / "socket"))
    with pytest.raises(SystemUnavailable, match="no incus daemon answers"):
        IncusApi().get("/1.0")


def test_an_incus_that_does_not_trust_us(answers: Answers) -> None:
    answers["/1.0"] = _sync({"auth": "untrusted"})
    found = make_driver("incus", Events()).probe()
    assert (found.usable, found.hint) == (False, "sudo usermod -aG incus-admin $USER")


def test_an_incus_without_storage(answers: Answers) -> None:
    answers["/1.0"] = _sync({"auth": "trusted"})
    answers["/1.0/profiles/default"] = _sync({"devices": {}})
    answers["/1.0/storage-pools"] = _sync([])
    found = make_driver("incus", Events()).probe()
    assert (found.usable, found.reason) == (False, "incus has no storage pool")
    assert found.hint == "incus admin init --minimal"
