"""How podman's answers are read."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from docker.errors import APIError, NotFound

from pytest_rexxinfra.systems.podman_engine import PodmanEngine

# What podman 4.3 answers while another request removes the container.
GONE = b'{"cause":"no such container","message":"container 12 does not exist in database: no such container"}'


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
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("CONTAINER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        with pytest.raises(APIError) as caught:
            PodmanEngine().api.inspect_container("12")
        thread.join()
    assert type(caught.value) is kind
