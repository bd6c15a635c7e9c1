# SPDX-License-Identifier: Apache-2.0
"""The HTTP surface (spec/protocol.md, section Resources): strict arguments in, sealed answers or problems out.

Handlers only read requests and write answers; what they decide is in `opening`, `access`, `downloads` and `uploads`,
which block and therefore run in threads.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clf import limits
from clf.errors import ClfError, WireError
from clf.server import maintenance, uploads
from clf.server.access import Access, access, end
from clf.server.connections import Counted, Watch, party, threads_count
from clf.server.downloads import BytesDownload, FileDownload, Manifests, content, manifest
from clf.server.keys import Identity
from clf.server.limiting import Flow
from clf.server.opening import open_transfer
from clf.server.receiving import Arriving
from clf.server.refusal import Refusal, refusal_of
from clf.server.sending import SealedResponse
from clf.server.services import Facts, Services
from clf.wire import challenge
from clf.wire.documents import Status
from clf.wire.encoding import compact_json, shown, unb64url
from clf.wire.keys import public_jwk
from clf.wire.problem import CODES, MEDIA_TYPE, encode_problem
from clf.wire.sealed import Context, seal, sealed_size

VERSIONS = ["v1"]
SEALED_TYPE = "application/vnd.clf.sealed"
_NUMBER_CHARACTERS = 16

T = TypeVar("T")
log = structlog.get_logger("clf.server")


class Api:
    """The handlers over one worker's services."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.manifests = Manifests(services)
        self.uploads = uploads.Uploads(services)
        self.pool = ThreadPoolExecutor(threads_count(services.config.limits), thread_name_prefix="clf")
        self._jwk: tuple[str, dict[str, str]] = ("", {})
        # What the event loop reads into. It is sealed before anything else runs there: one is enough for all bodies.
        self._buffer = memoryview(bytearray(limits.PIECE_MOST_BYTES))

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run something that blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, partial(function, *args, **kwargs))

    def _public(self, identity: Identity) -> dict[str, str]:
        if self._jwk[0] != identity.thumbprint:
            self._jwk = (identity.thumbprint, public_jwk(identity.public_key))
        return self._jwk[1]

    # --- handlers ------------------------------------------------------------------------------------

    async def well_known(self, request: Request, _facts: Facts) -> Response:
        """GET /.well-known/clf"""
        _query(request)
        if self.services.config.state_url is not None:  # what stands before several servers asks here who can serve
            await self.run(self.services.policy.current)
        identity = self._public(self.services.identity)
        return _json(
            200, compact_json({"versions": VERSIONS, "identity": identity, "simulated": self.services.simulated})
        )

    async def challenges(self, request: Request, _facts: Facts) -> Response:
        """POST /v1/challenges"""
        _query(request)
        await self._body(request, 0)
        services = self.services
        ring, identity = services.challenge_keys, services.identity
        issued = challenge.issue(
            key_id=ring.current,
            key=ring.current_key,
            audience=identity.thumbprint,
            now=services.now(),
            random=services.random(challenge.RANDOM_BYTES),
        )
        body = {"challenge": issued, "expires_in": limits.CHALLENGE_SECONDS, "identity": self._public(identity)}
        return _json(201, compact_json(body))

    async def transfers(self, request: Request, facts: Facts) -> Response:
        """POST /v1/transfers"""
        _query(request)
        body = await self._body(request, limits.TRANSFER_BODY_BYTES)
        begun = time.monotonic()
        opened = await self.run(open_transfer, self.services, body, facts)
        self.services.metrics.opening(time.monotonic() - begun)
        return _json(200 if opened.replayed else 201, compact_json({"grant": opened.grant}))

    async def content(self, request: Request, facts: Facts) -> Response:
        """GET /v1/transfers/{id}/content"""
        query = _query(request, "index", "offset", "length", "nonce")
        asked = {name: _number(query, name) for name in ("index", "offset", "length")}
        nonce = _nonce(query)
        facts.update(asked)

        def prepare() -> SealedResponse:
            found = self._access(request, facts)
            flow = self._flow(found, facts, sending=True)
            return self._sealed(content(self.services, self.manifests, found, **asked, nonce=nonce), flow)

        return await self.run(prepare)

    async def manifest(self, request: Request, facts: Facts) -> Response:
        """GET /v1/transfers/{id}/manifest"""
        query = _query(request, "offset", "length", "nonce")
        asked = {name: _number(query, name) for name in ("offset", "length")}
        nonce = _nonce(query)
        facts.update(asked)

        def prepare() -> SealedResponse:
            found = self._access(request, facts)
            flow = self._flow(found, facts, sending=True)
            return self._sealed(manifest(self.services, self.manifests, found, **asked, nonce=nonce), flow)

        return await self.run(prepare)

    async def put(self, request: Request, facts: Facts) -> Response:
        """PUT /v1/transfers/{id}/content"""
        query = _query(request, "offset", "length", "nonce")
        offset, length = _number(query, "offset"), _number(query, "length")
        nonce = _nonce(query)
        facts.update(offset=offset, length=length)
        most = self.services.config.limits.part_bytes
        if length > most:
            raise Refusal("too_large", f"a part of {length} bytes", step="part", remedy="raise part_bytes")
        _content_length(request, sealed_size(length))
        found = await self.run(self._access, request, facts)
        flow = self._flow(found, facts, sending=False)
        with flow.place():
            received = await self.uploads.receive(
                self.run,
                found,
                self._part(request, sealed_size(length), flow),
                offset=offset,
                length=length,
                nonce=nonce,
            )
        return self._status(found, "open", received, nonce)

    async def status(self, request: Request, facts: Facts) -> Response:
        """GET /v1/transfers/{id}"""
        nonce = _nonce(_query(request, "nonce"))
        found = await self.run(self._access, request, facts, committed=True)
        return self._status(found, found.row.state, found.row.received, nonce)

    async def commit(self, request: Request, facts: Facts) -> Response:
        """POST /v1/transfers/{id}/commit"""
        nonce = _nonce(_query(request, "nonce"))
        body = await self._body(request, sealed_size(limits.COMMIT_BODY_BYTES), "body_invalid")
        found = await self.run(self._access, request, facts, committed=True)
        receipt = await self.run(self.uploads.commit, found, body, nonce=nonce, facts=facts)
        return _sealed_bytes(found, "receipt", receipt.encode("ascii"), nonce)

    async def delete(self, request: Request, facts: Facts) -> Response:
        """DELETE /v1/transfers/{id}"""
        _query(request)

        def close() -> None:
            found = self._access(request, facts, committed=True)
            if found.row.state == "open":
                end(self.services, found.row, "closed", "the client closed it")
                self.uploads.forget(found.row.id)

        await self.run(close)
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    # --- helpers -------------------------------------------------------------------------------------

    def _access(self, request: Request, facts: Facts, *, committed: bool = False) -> Access:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            raise Refusal("token_invalid", "no bearer token", step="3 token")
        return access(self.services, request.path_params["id"], token, facts, committed=committed)

    def _flow(self, found: Access, facts: Facts, *, sending: bool) -> Flow:
        flow = self.services.flow(found.row.enclave, facts["address"], sending=sending)
        flow.admit()
        return flow

    def _sealed(self, download: FileDownload | BytesDownload, flow: Flow) -> SealedResponse:
        return SealedResponse(
            download, services=self.services, flow=flow, run=self.run, buffer=self._buffer, media_type=SEALED_TYPE
        )

    def _status(self, found: Access, state: str, received: int, nonce: bytes) -> Response:
        return _sealed_bytes(found, "status", Status(state=state, received=received).encode(), nonce)

    def _arriving(self, request: Request, most: int, code: str) -> Arriving:
        idle = self.services.config.limits.body_idle_seconds
        return Arriving(request.receive, most=most, code=code, idle_seconds=idle)

    async def _part(self, request: Request, most: int, flow: Flow) -> AsyncIterator[bytes]:
        """A part's body, in pieces of 1 MiB."""
        body = self._arriving(request, most, "body_invalid")
        while piece := await body.gather(uploads.PULL_BYTES):
            yield piece
            delay = flow.delay(len(piece))
            if delay:
                await asyncio.sleep(delay)

    async def _body(self, request: Request, most: int, code: str = "malformed") -> bytes:
        """A small body, all of it within the time that a part may stand still: it is not worth waiting for longer."""
        announced = request.headers.get("content-length")
        if announced is not None and announced.isdecimal() and int(announced[:20]) > most:
            raise Refusal("too_large", f"a body of more than {most} bytes", step="body")
        try:
            async with asyncio.timeout(self.services.config.limits.body_idle_seconds):
                return await self._arriving(request, most, code).gather(most + 1)
        except TimeoutError:
            raise Refusal(code, "the body did not come in time", step="body") from None


Handler = Callable[[Request, Facts], Awaitable[Response]]


def create_app(services: Services) -> Starlette:
    """The ASGI application of one worker."""
    api = Api(services)

    def endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            facts: Facts = {"address": request.client.host if request.client else ""}
            try:
                services.rate.take(party(facts["address"]))
                return await handler(request, facts)
            except Exception as error:  # every error becomes a refusal here, so none can leak
                return await api.run(refuse, services, error, facts, handler.__name__)

        return guarded

    async def missing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        # The target of CONNECT, or `*`, is no path.
        path: str = request.scope["path"]  # `request.url` decodes the query, too, which may hold anything
        first = path.removeprefix("/").split("/")[0]
        unknown = first not in (*VERSIONS, ".well-known") and first[:1] == "v" and first[1:].isdecimal()
        code = "method_not_allowed" if status == 405 else "version_unknown" if unknown else "not_found"
        reason = f"{shown(request.method)} {shown(path)}"
        facts: Facts = {"address": request.client.host if request.client else ""}
        headers = getattr(error, "headers", None) or {}
        refusal = Refusal(code, reason, step="route", allow=", ".join(sorted(headers.get("Allow", "").split(", "))))
        try:
            services.rate.take(party(facts["address"]))
        except Refusal as limited:
            refusal = limited
        return await api.run(refuse, services, refusal, facts, "route")

    async def failed(request: Request, error: Exception) -> Response:
        """What stops an answer that was made already: a source that changes before its first byte has left, say."""
        facts: Facts = {"address": request.client.host if request.client else ""}
        return await api.run(refuse, services, error, facts, "answer")

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await api.run(maintenance.begin, services)
        listen = services.config.listen
        watch = Watch(services.connections, listen.host, listen.port, services.config.limits)
        watch.start()
        keeper = asyncio.create_task(maintenance.keep(services, api.run))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await api.run(watch.stop)
            await api.run(maintenance.finish, services)
            api.pool.shutdown(wait=True, cancel_futures=True)

    one = "/v1/transfers/{id}"
    routes = [
        _route("/.well-known/clf", GET=endpoint(api.well_known)),
        _route("/v1/challenges", POST=endpoint(api.challenges)),
        _route("/v1/transfers", POST=endpoint(api.transfers)),
        _route(f"{one}/content", GET=endpoint(api.content), PUT=endpoint(api.put)),
        _route(f"{one}/manifest", GET=endpoint(api.manifest)),
        _route(f"{one}/commit", POST=endpoint(api.commit)),
        _route(one, GET=endpoint(api.status), DELETE=endpoint(api.delete)),
    ]
    handlers: dict[Any, Any] = {404: missing, 405: missing, ClfError: failed, Exception: failed}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False

    async def crowded(refusal: Refusal, address: str) -> Response:
        response = await api.run(refuse, services, refusal, {"address": address}, "places")
        response.headers["Connection"] = "close"
        return response

    app.add_middleware(Counted, connections=services.connections, crowded=crowded)
    return app


def _route(path: str, **handlers: Callable[[Request], Awaitable[Response]]) -> Route:
    """Exactly these methods. Starlette would add HEAD to GET: it would seal, log and count what nobody gets."""

    async def chosen(request: Request) -> Response:
        return await handlers[request.method](request)

    route = Route(path, chosen, methods=list(handlers))
    route.methods = set(handlers)
    # Starlette ends its pattern with `$`, which a line feed after the path matches, too.
    route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
    return route


def refuse(services: Services, error: Exception, facts: Facts, where: str) -> Response:
    """The problem that a client gets, once the owner's log has the reason."""
    refusal = refusal_of(error, step=where)
    if refusal.fault:
        log.error("defect", step=refusal.step, error=type(error).__name__, exc_info=error)
    try:
        reference = services.deny(refusal, facts)
    except Exception as failure:
        # The refusal stands even where it cannot be written down; the client learns no more than that.
        code = failure.code if isinstance(failure, ClfError) else ""
        log.error("audit log not written", error=type(failure).__name__, code=code)
        reference = "unrecorded"
    return problem(services, refusal, reference)


def problem(services: Services, refusal: Refusal, reference: str) -> Response:
    """A refusal as HTTP: coarse for strangers, complete in simulation."""
    detail = ""
    if services.simulated:
        detail = f"{refusal.step}: {refusal.message}" + (f" ({refusal.remedy})" if refusal.remedy else "")
    versions = VERSIONS if refusal.code == "version_unknown" else None
    headers = {"Cache-Control": "no-store"}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(refusal.retry_after)))
    if CODES[refusal.code].status == 405:
        headers["Allow"] = refusal.allow or ""  # RFC 9110 asks for it, also where nothing is allowed
    body = encode_problem(refusal.code, reference=reference, detail=detail, versions=versions)
    return Response(body, CODES[refusal.code].status, headers, MEDIA_TYPE)


def _json(status: int, body: bytes) -> Response:
    return Response(body, status, {"Cache-Control": "no-store"}, "application/json")


def _sealed_bytes(found: Access, op: Any, plain: bytes, nonce: bytes) -> Response:
    context = Context(op=op, id=found.row.id, path=found.path, nonce=nonce)
    return Response(seal(found.secret, context, plain), 200, {"Cache-Control": "no-store"}, SEALED_TYPE)


def _query(request: Request, *names: str) -> dict[str, str]:
    """Exactly these parameters, each once. Raises WireError."""
    raw = request.scope.get("query_string", b"")
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=8)
    except ValueError:
        raise WireError("query: not of the form name=value&name=value") from None
    found = dict(pairs)
    if len(found) != len(pairs) or set(found) != set(names):
        raise WireError(f"query: must have exactly {', '.join(names) or 'nothing'}")
    return found


def _number(query: dict[str, str], name: str) -> int:
    written = query[name]
    if not (written.isascii() and written.isdecimal()) or len(written) > _NUMBER_CHARACTERS:
        raise WireError(f"{name}: {shown(written)} is not a whole number")
    number = int(written)
    if number > limits.FILE_BYTES or str(number) != written:
        raise WireError(f"{name}: {shown(written)} is not a number up to {limits.FILE_BYTES} without leading zeros")
    return number


def _nonce(query: dict[str, str]) -> bytes:
    return unb64url(query["nonce"], "nonce", size=limits.NONCE_BYTES)


def _content_length(request: Request, expected: int) -> None:
    if request.headers.get("content-length") != str(expected):
        raise WireError(f"Content-Length: must be {expected} for a part of this length")
