"""A real HTTP server on loopback that answers as a service of carbon intensities does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Asked:
    """A request: path, query with one value for each name, and headers."""

    def __init__(self, path: str, headers: Any) -> None:
        parts = urlsplit(path)
        self.path = parts.path
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.headers = headers


class Answer:
    """What the server sends: a status, headers and a body, in pieces with pauses that `wait` makes."""

    def __init__(
        self,
        body: Any = b"",
        status: int = 200,
        headers: dict[str, str] | None = None,
        wait: Callable[[], object] | None = None,
        length: int | None = None,
    ) -> None:
        self.body = (
            body
            if isinstance(body, bytes)
            else (body if isinstance(body, str) else json.dumps(body)).encode()
        )
        self.status = status
        self.headers = headers or {}
        self.wait = wait
        self.length = len(self.body) if length is None else length


class Service:
    """The address of the server, what it was asked, and the answer that it gives, which a test may change."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""


@contextmanager
def serving(answer: Callable[[Asked], Answer]) -> Iterator[Service]:
    service = Service(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = Asked(self.path, self.headers)
            service.asked.append(asked)
            answer = service.answer(asked)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(answer.length))
            self.end_headers()
            if answer.wait is not None:
                self.wfile.flush()
                answer.wait()
            try:
                self.wfile.write(answer.body)
            except OSError:  # the client has given up
                return

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
