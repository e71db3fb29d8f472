"""One request to a service, within a bounded time, by the standard library.

No text that leaves this module has the query of the address, which may have a key in it.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
import zlib
from email.utils import parsedate_to_datetime
from typing import IO, Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from carbon_otel._version import __version__
from carbon_otel.clock import monotonic, wall
from carbon_otel.intensity.service import Request, Unavailable, WrongShape

TIMEOUT_S: Final = 3.0
_ATTEMPTS: Final = 2
_LARGEST: Final = 20_000_000
_LONGEST_PAUSE_S: Final = 86_400.0
_REASONS: Final = {
    400: "does not accept the request",
    401: "does not accept the key, or wants one",
    403: "does not accept the key for this zone",
    404: "does not know the zone or the address",
    410: "has been shut down",
    429: "has had too many requests",
}


class _NoOtherHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirection on the same host only: the key would travel with the request."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            raise urllib.error.URLError(f"redirects to another host, {after.hostname}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Failure(NamedTuple):
    """Why there is no answer, the pause that the service asks for, and whether another attempt may help."""

    reason: str
    pause_s: float | None = None
    again: bool = False


def ask(base: str, request: Request, *, is_json: bool = True, timeout_s: float = TIMEOUT_S) -> Any:
    """The answer to a request, as JSON or text. A fault of the network or of the server is tried once more.

    Raises Unavailable.
    """
    host = urlsplit(base).hostname or base
    attempts = _ATTEMPTS
    while True:
        answer = _try(base, request, timeout_s)
        if isinstance(answer, bytes):
            return _decoded(answer, host) if is_json else answer.decode("utf-8", "replace")
        attempts -= 1
        if not attempts or not answer.again:
            # Raised outside of any `except`, so that it has no context: those exceptions have the whole address.
            raise Unavailable(f"{host} {answer.reason}", answer.pause_s)


def _try(base: str, request: Request, timeout_s: float) -> bytes | _Failure:
    query = urlencode({**request.query, **request.secret_query}, quote_via=quote)
    headers = {"User-Agent": f"carbon_otel/{__version__}", **request.headers}
    url = f"{base}{request.path}{'?' if query else ''}{query}"
    until = monotonic() + timeout_s
    try:
        opener = urllib.request.build_opener(_NoOtherHost)
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as response:
            return _read(response, until)
    except urllib.error.HTTPError as error:
        reason = f"{_REASONS.get(error.code, 'fails')} (HTTP {error.code})"
        pause_s = _pause(error.headers.get("Retry-After", "")) if error.code in (429, 503) else None
        error.close()
        return _Failure(reason, pause_s, error.code >= 500 and pause_s is None)
    except TimeoutError:
        return _Failure(f"does not answer within {timeout_s:g} s", again=True)
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            return _Failure(f"does not answer within {timeout_s:g} s", again=True)
        return _Failure(f"cannot be used: {_short(error.reason)}", again=isinstance(error.reason, OSError))
    except (OSError, http.client.HTTPException, zlib.error) as error:
        return _Failure(f"breaks off: {type(error).__name__}", again=True)
    except ValueError as error:
        return _Failure(f"cannot be asked: {type(error).__name__}")


def _read(response: http.client.HTTPResponse, until: float) -> bytes:
    pieces, size = [], 0
    while piece := response.read1(1 << 16):
        size += len(piece)
        if monotonic() > until:
            raise TimeoutError
        if size > _LARGEST:
            raise http.client.HTTPException("too long")
        pieces.append(piece)
    if response.length:  # `read1` does not notice a connection that ends early
        raise http.client.IncompleteRead(b"", response.length)
    body = b"".join(pieces)
    if response.headers.get("Content-Encoding", "").lower() == "gzip":
        return zlib.decompressobj(wbits=31).decompress(body, _LARGEST)
    return body


def _decoded(body: bytes, host: str) -> Any:
    text = body.decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if not text.strip():
        raise WrongShape(f"{host} answers with nothing")
    raise WrongShape(
        f"{host} answers with {'a web page' if text.lstrip()[:1] == '<' else 'text'} instead of JSON"
    )


def _pause(text: str) -> float | None:
    """The seconds of a header `Retry-After`, which has a number or a date."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - wall()
        except (ValueError, TypeError, IndexError):
            return None
    return min(max(seconds, 0.0), _LONGEST_PAUSE_S) if seconds == seconds else None


def _short(reason: object) -> str:
    return str(reason.strerror or type(reason).__name__) if isinstance(reason, OSError) else str(reason)[:100]
