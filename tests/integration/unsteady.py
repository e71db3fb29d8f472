"""A server in front of an MLflow server, which fails in a chosen way at chosen requests."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Unsteady:
    """It fails at the paths that contain `at`: it hangs, drops the connection, or answers with a status."""

    def __init__(self, target: str) -> None:
        self.failure: str | int | None = None
        self.at = "/runs/log-batch"
        self.failures = 0
        self._target = target
        self._end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names of the base class

            def log_message(self, *arguments: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *arguments: object) -> None:
                """A client has closed its connection."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if self.failure is not None and self.at in request.path:
            self.failures += 1
            if self.failure == "hang":
                self._end.wait()
                return
            if self.failure == "drop":
                request.connection.shutdown(socket.SHUT_RDWR)
                return
            request.send_error(int(self.failure))
            return
        passed_on = urllib.request.Request(self._target + request.path, body or None, method=request.command)
        passed_on.add_header("Content-Type", request.headers.get("Content-Type", "application/json"))
        try:
            answer = urllib.request.urlopen(passed_on, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
        request.send_response(answer.status)
        request.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    @contextlib.contextmanager
    def serving(self) -> Iterator[Unsteady]:
        thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()
