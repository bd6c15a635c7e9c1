# SPDX-License-Identifier: Apache-2.0
"""HTTPS to one owner: TLS 1.3, the pinned CA and nothing else, and no answer that takes for ever or has no end.

No redirects, no proxies or CAs from the environment, no retries of the library. Everything that urllib3, ssl and the
sockets raise leaves here as CutError (try again), IntegrityError (do not) or TransferError (somebody answered).
"""

from __future__ import annotations

import functools
import http.client
import math
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NoReturn, cast
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.util import Timeout

from clf import __version__, limits
from clf.client.pace import Attempts, CutError
from clf.client.session import forget_after_fork
from clf.client.sockets import ClosingSocket
from clf.errors import ClfError, ConfigError, IntegrityError, UnreachableError
from clf.wire import problem

DEFAULT_PORT = 4433
JSON_TYPE = "application/json"
SEALED_TYPE = "application/vnd.clf.sealed"

_GENTLE_BYTES = 16 * 1024
_LEAST_SECONDS = 0.001
# What urllib3, ssl and the sockets raise.
_RAISED = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
# What a server says that will never speak TLS 1.3 with us, whatever we try.
_HOPELESS_TLS = frozenset(
    {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_VERSION_NUMBER", "HTTP_REQUEST", "NO_CIPHERS"}
)


class _Current(threading.local):
    attempts: Attempts | None = None


_current = _Current()


@contextmanager
def _patience(attempts: Attempts) -> Iterator[None]:
    """Whatever this thread reads and writes meanwhile ends when the patience of this operation does."""
    before, _current.attempts = _current.attempts, attempts
    try:
        yield
    finally:
        _current.attempts = before


class _PatientSocket(ClosingSocket):
    """A TLS socket whose every read and write ends when the current operation's patience does.

    A plain socket timeout starts anew with each byte, so a server that sends one byte a minute would never end.
    """

    _limited: Attempts | None = None
    _again = 0.0

    def _limit(self) -> None:
        attempts = _current.attempts
        # A look at the time for each record, and at everything else once a second.
        if attempts is None or (attempts is self._limited and attempts.clock() < self._again):
            return
        self._limited = None
        left = attempts.remaining()
        if left <= 0:
            raise TimeoutError("no progress")
        # Whole seconds, so that the system call behind settimeout is made once a second and not for each record.
        wanted = float(math.ceil(left)) if left > 2 else max(left, _LEAST_SECONDS)
        if left > 2:
            self._limited, self._again = attempts, attempts.clock() + 1
        if wanted != self.gettimeout():
            self.settimeout(wanted)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self._limit()
        if nbytes is None and not flags:
            # What SSLSocket.recv_into comes to, which is called for each record of 16 KiB.
            return cast("int", self.read(len(buffer), buffer))
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        self._limit()
        return super().send(data, flags)


def parse_url(url: str) -> tuple[str, int]:
    """Host and port of an owner's URL. Raises ConfigError."""
    remedy = "write it like https://hospital-a.example:4433"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is not a URL: {error}", field="url", remedy=remedy) from None
    if parts.scheme != "https" or not parts.hostname:
        raise ConfigError(f"{url!r} is not an https URL with a host", field="url", remedy=remedy)
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigError(f"{url!r} has more than host and port", field="url", remedy=remedy)
    return parts.hostname.lower(), DEFAULT_PORT if port is None else port


@functools.lru_cache(maxsize=limits.CLIENT_CONTEXTS_COUNT)
def _context(ca: bytes) -> ssl.SSLContext:
    """Made once for each owner: an app connects anew for each transfer, and this takes as long as a handshake."""
    # Not ssl.create_default_context: that one would write TLS keys to $SSLKEYLOGFILE, a file of the host's choice.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _PatientSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            "the CA is not one or more PEM certificates",
            field="ca",
            remedy="take keys/tls/ca.crt of the owner's server folder",
        ) from error
    if not context.get_ca_certs():
        raise ConfigError(
            "the CA file holds no CA certificate", field="ca", remedy="take keys/tls/ca.crt, not server.crt"
        )
    return context


class Body:
    """The body of one successful answer, as its bytes arrive. `attempts` is the operation that waits for them."""

    def __init__(self, response: urllib3.BaseHTTPResponse, attempts: Attempts) -> None:
        self._response = response
        # urllib3's own readinto makes new memory for each read, which costs as much as opening what was read.
        plain = getattr(response, "_fp", None)
        self._source = plain if isinstance(plain, http.client.HTTPResponse) else response
        self.attempts = attempts
        self.finished = False

    def read(self, *, gentle: bool = False) -> bytes:
        """The next bytes, empty at the end. `gentle`: whatever is there, so that a cut costs least. Raises CutError."""
        with _patience(self.attempts), _mapped():
            if gentle:
                data = self._response.read1(_GENTLE_BYTES, decode_content=False)
            else:
                data = self._response.read(limits.CLIENT_READ_BYTES, decode_content=False)
        if not data:
            self.finished = True
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer; bytes read, fewer only at the end. Raises CutError."""
        # As `_patience` and `_mapped`, which two generators would do for each 128 KiB of a body.
        before, _current.attempts = _current.attempts, self.attempts
        try:
            count = self._source.readinto(buffer)
        except _RAISED as error:
            _raise(error)
        finally:
            _current.attempts = before
        if count == 0:
            self.finished = True
        return count

    def close(self) -> None:
        """A connection with unread bytes is not used again: the next answer would begin in the middle of them."""
        if self.finished:
            self._response.release_conn()
        else:
            self._response.close()


class _Connection(HTTPSConnection):
    """A connection on which a request may have been left whose answer nobody waits for."""

    owed: Attempts | None = None
    """The patience of the request whose answer is still to come."""

    @property
    def is_connected(self) -> bool:
        """Whether it can be used; asked by urllib3 before each request. Takes what is still owed off it first."""
        self._settle()
        return super().is_connected

    def close(self) -> None:
        """End it, after the answer that is owed: a server drops a request whose connection ends under it."""
        self._settle()
        super().close()

    def _settle(self) -> None:
        owed, self.owed = self.owed, None
        if owed is None:
            return
        try:
            with _patience(owed):
                answer = self.getresponse()
                if answer.read(limits.PROBLEM_BYTES) and answer.read(1):
                    raise CutError("an answer that does not end")
        except Exception:  # whatever it was, this connection is of no use any more
            super().close()


class _Pool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection

    def leave(self, method: str, target: str, headers: dict[str, str], attempts: Attempts) -> None:
        """Send a request and go on; who uses its connection next takes the answer off it."""
        connection = self._get_conn()
        try:
            if not isinstance(connection, _Connection):
                raise TypeError("a connection of another pool")
            connection.timeout = min(limits.CLIENT_CONNECT_SECONDS, max(attempts.remaining(), _LEAST_SECONDS))
            connection.request(method, target, headers=headers, preload_content=False, decode_content=False)
            connection.owed = attempts
        except BaseException:
            connection.close()
            raise
        finally:
            self._put_conn(connection)


class Http:
    """Connections to one owner, kept for reuse; usable from several threads."""

    def __init__(self, url: str, ca: bytes) -> None:
        self.host, self.port = parse_url(url)
        self.url = url
        self._ca = ca
        self._pool = self._fresh()
        forget_after_fork(self)

    def __repr__(self) -> str:
        return f"Http({self.url!r})"

    def _fresh(self) -> _Pool:
        return _Pool(
            self.host,
            self.port,
            maxsize=limits.CLIENT_CONNECTIONS_COUNT,
            block=False,
            retries=False,
            ssl_context=_context(self._ca),
            headers={},
        )

    def after_fork(self) -> None:
        """A TLS connection has one user: the child makes its own."""
        self._pool = self._fresh()

    def close(self) -> None:
        """Close the connections that are kept; a later request opens new ones."""
        self._pool.close()
        self._pool = self._fresh()

    def send(
        self,
        method: str,
        path: str,
        *,
        attempts: Attempts,
        query: Mapping[str, str | int] | None = None,
        token: str = "",
        body: bytes | Iterable[bytes] | None = None,
        body_bytes: int | None = None,
        content_type: str = "",
    ) -> Body:
        """One request; its successful answer is to be closed. Raises CutError, TransferError, IntegrityError."""
        headers = _headers(token)
        if content_type:
            headers["Content-Type"] = content_type
        if body is not None:
            headers["Content-Length"] = str(len(body) if isinstance(body, bytes) else body_bytes)
        target = f"{path}?{urlencode(query)}" if query else path
        left = max(attempts.remaining(), _LEAST_SECONDS)
        with _patience(attempts), _mapped():
            response = self._pool.urlopen(
                method,
                target,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=Timeout(connect=min(limits.CLIENT_CONNECT_SECONDS, left), read=left),
                preload_content=False,
                decode_content=False,
            )
        answer = Body(response, attempts)
        try:
            if response.status not in _SUCCESS.get(method, (200,)):
                raise _refusal(response, answer)
        except BaseException:
            answer.close()
            raise
        return answer

    def call(self, method: str, path: str, *, most: int = limits.CLIENT_ANSWER_BYTES, **options: Any) -> bytes:
        """One request and its whole small answer; options as for `send`. Raises IntegrityError if it is longer."""
        with closing(self.send(method, path, **options)) as body:
            return _whole(body, most)

    def leave(self, method: str, path: str, *, attempts: Attempts, token: str) -> None:
        """Send a request without a body, whose answer nobody waits for. Raises CutError."""
        with _patience(attempts), _mapped():
            self._pool.leave(method, path, _headers(token), attempts)


def _headers(token: str) -> dict[str, str]:
    headers = {"User-Agent": f"clf/{__version__}", "Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


_SUCCESS = {"POST": (200, 201), "DELETE": (204,)}
"""What the protocol's table gives for a success; any other status, 2xx or not, is somebody else's answer."""


def _whole(body: Body, most: int) -> bytes:
    data = b""
    while piece := body.read(gentle=True):
        data += piece
        if len(data) > most:
            raise IntegrityError(f"an answer of more than {most} bytes", code="too_large")
    return data


def _refusal(response: urllib3.BaseHTTPResponse, body: Body) -> ClfError:
    retry_after = response.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10 else None
    try:
        data = _whole(body, limits.PROBLEM_BYTES)
    except (CutError, IntegrityError):
        data = b""
    return problem.decode_problem(response.status, data, retry_after=seconds)


def advice(error: ClfError) -> problem.Advice:
    """What the protocol says a client does about an error; answers of others than CLF are retried for 429 and 5xx."""
    if isinstance(error, CutError):
        return "retry"
    code = problem.CODES.get(error.code)
    if code is not None:
        return code.advice
    status = getattr(error, "status", 0)
    return "retry" if status == 429 or status >= 500 else "stop"


@contextmanager
def _mapped() -> Iterator[None]:
    """Turn what libraries raise into errors of CLF."""
    try:
        yield
    except _RAISED as error:
        _raise(error)


def _raise(error: Exception) -> NoReturn:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise IntegrityError(
                f"the server's certificate is not to be trusted: {cause.verify_message}",
                code="certificate_untrusted",
                remedy="is the pinned CA that of this owner, is its certificate in date, and does it name this host?",
            ) from error
        if isinstance(cause, ssl.SSLError) and cause.reason in _HOPELESS_TLS:
            raise UnreachableError(
                f"the server does not speak TLS 1.3: {cause.reason}",
                code="tls_refused",
                remedy="is the URL that of a CLF server, and the port right?",
            ) from error
    raise CutError(_words(error)) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, what it carries and what it came from; urllib3 wraps twice."""
    left = 8
    while error is not None and left:
        yield error
        inner: object = error.args[0] if error.args else None
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
        left -= 1


_WORDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (urllib3.exceptions.NameResolutionError, "the host's name is not known"),
    ((TimeoutError, urllib3.exceptions.TimeoutError), "no answer in time"),
    ((ConnectionError, urllib3.exceptions.ProtocolError, EOFError), "the connection was cut"),
    (ssl.SSLError, "the TLS connection failed"),
)


def _words(error: Exception) -> str:
    """One plain sentence; the library's own text names memory addresses and pools."""
    causes = list(_causes(error))
    for kinds, words in _WORDS:
        if any(isinstance(cause, kinds) for cause in causes):
            return words
    return f"the connection failed: {type(error).__name__}"
