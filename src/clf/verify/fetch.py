# SPDX-License-Identifier: Apache-2.0
"""Where collateral comes from: a PCCS (or Intel's own service) over HTTP, or a folder of bundles.

The other end is trusted for nothing: what it sends is bounded in size and time, never redirected, and believed only
once the signatures verify. So plain HTTP to a PCCS costs privacy and availability, not integrity.

API: Intel SGX and TDX Provisioning Certification Service, version 4.
"""

from __future__ import annotations

import os
import time
import urllib.parse
from collections.abc import Callable
from json import JSONDecodeError, JSONDecoder
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Final, Literal, Protocol

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError

from clf import limits
from clf.errors import CollateralError, ConfigError
from clf.verify.bundle import Kept, read_bundle
from clf.verify.claims import Tee
from clf.verify.collateral import Collateral, malformed
from clf.verify.deadline import BoundedHTTPPool, BoundedHTTPSPool, bounded

Update = Literal["standard", "early"]

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

_LEAST_SECONDS: Final = 0.1
_WORTH_RETRYING: Final = frozenset({429, 500, 502, 503, 504})


class CollateralSource(Protocol):
    """Something that yields unverified collateral for a platform model; safe to call from many threads."""

    def fetch(self, fmspc: str, pck_ca: str, tee: Tee, /) -> Collateral:
        """`fmspc` is 12 hex digits, `pck_ca` "processor" or "platform". Raises CollateralError."""


class PccsSource:
    """A PCCS at `url` (scheme, host, port; a path such as /sgx/certification/v4 is tolerated).

    `ca_file` pins the CA of an HTTPS PCCS, which usually has a certificate of its own. `root_crl_url` is where the
    root's CRL is if the service has no `rootcacrl`, as Intel's has not. `update` is Intel's channel: "early" has a new
    TCB evaluation set when it is published, "standard" later, when platforms had time to follow.
    `total_seconds` bounds one whole fetch.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        root_crl_url: str | None = None,
        update: Update = "standard",
        total_seconds: float = limits.COLLATERAL_TOTAL_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or "@" in url:
            raise ConfigError(
                f"not the address of a PCCS: {url!r}",
                field="collateral",
                remedy="write for example https://localhost:8081",
            )
        path = parts.path.rstrip("/")
        for tee in ("sgx", "tdx"):
            path = path.removesuffix(f"/{tee}/certification/v4")
        self.url = f"{parts.scheme}://{parts.netloc}{path}"
        self._root_crl_url = root_crl_url or (INTEL_ROOT_CRL if self.url == INTEL_PCS else None)
        self._monotonic = monotonic
        self._sleep = sleep
        self._total_seconds = total_seconds
        self._update = update
        self._pool = urllib3.PoolManager(
            num_pools=4,
            maxsize=8,
            retries=False,
            ca_certs=None if ca_file is None else str(ca_file),
            headers={"User-Agent": "clf", "Accept-Encoding": "identity"},
        )
        self._pool.pool_classes_by_scheme = {"http": BoundedHTTPPool, "https": BoundedHTTPSPool}

    @classmethod
    def intel(
        cls, *, update: Update = "standard", total_seconds: float = limits.COLLATERAL_TOTAL_SECONDS
    ) -> PccsSource:
        """Intel's own service; it needs no key for collateral."""
        return cls(INTEL_PCS, update=update, total_seconds=total_seconds)

    def fetch(self, fmspc: str, pck_ca: str, tee: Tee) -> Collateral:
        """Four requests. Raises CollateralError: `collateral_unavailable`, `_refused`, `_redirected`, `_too_large`,
        `_malformed`, each prefixed `collateral`.
        """
        until = self._monotonic() + self._total_seconds
        sgx, own = (f"{self.url}/{name}/certification/v4" for name in ("sgx", tee))
        pck_crl, headers = self._get(f"{sgx}/pckcrl?ca={pck_ca}&encoding=der", until)
        pck_crl_chain = _chain(headers, "SGX-PCK-CRL-Issuer-Chain")
        body, headers = self._get(f"{own}/tcb?fmspc={fmspc.upper()}&update={self._update}", until)
        tcb_info, tcb_signature = signed_member(body, "tcbInfo")
        tcb_chain = _chain(headers, "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain")
        body, headers = self._get(f"{own}/qe/identity?update={self._update}", until)
        qe_identity, qe_signature = signed_member(body, "enclaveIdentity")
        qe_chain = _chain(headers, "SGX-Enclave-Identity-Issuer-Chain")
        root_crl, _ = self._get(self._root_crl_url or f"{sgx}/rootcacrl", until)
        return Collateral(
            pck_crl_issuer_chain=pck_crl_chain,
            root_ca_crl=_der(root_crl, "root CA CRL"),
            pck_crl=_der(pck_crl, "PCK CRL"),
            tcb_info_issuer_chain=tcb_chain,
            tcb_info=tcb_info,
            tcb_info_signature=tcb_signature,
            qe_identity_issuer_chain=qe_chain,
            qe_identity=qe_identity,
            qe_identity_signature=qe_signature,
        )

    def _get(self, url: str, until: float) -> tuple[bytes, urllib3.HTTPHeaderDict]:
        """One body and its headers, with bounded retries of what may pass."""
        pause = limits.COLLATERAL_PAUSE_SECONDS
        for left in reversed(range(limits.COLLATERAL_TRIES_COUNT)):
            try:
                return self._once(url, until)
            except _MayPassError as error:
                if not left or self._monotonic() + pause >= until:
                    raise CollateralError(
                        f"the collateral service at {self.url} does not answer: {error}",
                        code="collateral_unavailable",
                        remedy="start the PCCS, or check its address",
                    ) from None
            self._sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    def _once(self, url: str, until: float) -> tuple[bytes, urllib3.HTTPHeaderDict]:
        try:
            answer = self._pool.request(
                "GET", url, redirect=False, preload_content=False, decode_content=False, timeout=self._timeout(until)
            )
        except (HTTPError, LocationParseError, OSError, ValueError) as error:
            raise _MayPassError(_short(error)) from None
        try:
            if 300 <= answer.status < 400:
                raise CollateralError(
                    f"{url} answers with a redirect, which is not followed",
                    code="collateral_redirected",
                    remedy="configure the final address",
                )
            if answer.status in _WORTH_RETRYING:
                raise _MayPassError(f"HTTP {answer.status}")
            if answer.status != 200:
                raise CollateralError(
                    f"{url} answers HTTP {answer.status}",
                    code="collateral_refused",
                    remedy="check that the service knows this platform's FMSPC, and its address",
                )
            try:
                with bounded(answer.connection, until - self._monotonic()):
                    return self._body(answer, url, until), answer.headers
            except TimeoutError:
                raise _MayPassError("too slow") from None
        finally:
            answer.close()

    def _timeout(self, until: float) -> urllib3.Timeout:
        left = max(until - self._monotonic(), _LEAST_SECONDS)
        return urllib3.Timeout(
            connect=min(limits.COLLATERAL_CONNECT_SECONDS, left), read=min(limits.COLLATERAL_READ_SECONDS, left)
        )

    def _body(self, answer: urllib3.BaseHTTPResponse, url: str, until: float) -> bytes:
        """At most `limits.COLLATERAL_BODY_BYTES`, and complete. Read piecewise: a slow sender meets the deadline."""
        parts, size = [], 0
        try:
            while piece := answer.read1(64 * limits.KIB):
                parts.append(piece)
                size += len(piece)
                if size > limits.COLLATERAL_BODY_BYTES:
                    raise CollateralError(
                        f"{url} sends more than {limits.COLLATERAL_BODY_BYTES} bytes",
                        code="collateral_too_large",
                        remedy="check that the address is that of a PCCS",
                    )
                if self._monotonic() >= until:
                    raise _MayPassError("too slow")
        except (HTTPError, OSError, ValueError) as error:
            raise _MayPassError(_short(error)) from None
        declared = answer.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) != size:
            raise _MayPassError(f"the answer was cut off after {size} of {declared} bytes")
        return b"".join(parts)


class FolderSource:
    """A folder of collateral (`*.json`: bundles, or single collateral as dcap-qvl writes it), or one such file.

    For an owner with no way out: the bundle is made on another machine and carried over. Of several that fit, the
    latest TCB evaluation counts, and among equals the one that was issued last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[Path, tuple[tuple[int, int, int], tuple[Kept, ...]]] = {}

    def fetch(self, fmspc: str, pck_ca: str, tee: Tee) -> Collateral:
        """Raises CollateralError `collateral_unavailable` if none fits, `collateral_malformed` for a damaged one."""
        found: Collateral | None = None
        for file in self._files():
            try:
                for kept in self._read(file):
                    if kept.key != (fmspc.lower(), pck_ca, tee):
                        continue
                    if found is None or _rank(kept.collateral) > _rank(found):
                        found = kept.collateral
            except OSError as error:
                raise CollateralError(f"{file} cannot be read: {error.strerror}") from None
            except CollateralError as error:
                raise CollateralError(f"{file}: {error.message}", code=error.code, remedy=error.remedy) from None
        if found is None:
            raise CollateralError(
                f"{self.path} has no collateral for {tee.upper()} platforms with FMSPC {fmspc} ({pck_ca} CA)",
                code="collateral_unavailable",
                remedy="fetch a bundle on a machine that reaches a PCCS, and put it there",
            )
        return found

    def all(self) -> list[Kept]:
        """Everything that is there, unverified. Raises CollateralError as `fetch` does."""
        found: list[Kept] = []
        for file in self._files():
            try:
                found.extend(self._read(file))
            except OSError as error:
                raise CollateralError(f"{file} cannot be read: {error.strerror}") from None
            except CollateralError as error:
                raise CollateralError(f"{file}: {error.message}", code=error.code, remedy=error.remedy) from None
        return found

    def _read(self, file: Path) -> tuple[Kept, ...]:
        """A file, or what is known of it since it was last read. Raises OSError and CollateralError."""
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._known.get(file)
            if known is not None and known[0] == stamp:
                return known[1]
            kept = read_bundle(opened.read(limits.COLLATERAL_EXPORT_BYTES + 1))
        self._known[file] = (stamp, kept)
        return kept

    def _files(self) -> list[Path]:
        try:
            if not self.path.is_dir():
                return [self.path]
            files = sorted(file for file in self.path.iterdir() if file.suffix == ".json")
        except OSError as error:
            raise CollateralError(f"{self.path} cannot be read: {error.strerror}") from None
        if len(files) > limits.COLLATERAL_FILES_COUNT:
            raise CollateralError(f"{self.path} holds more than {limits.COLLATERAL_FILES_COUNT} bundles")
        there = set(files)
        for known in list(self._known):  # other threads read, too
            if known not in there:
                self._known.pop(known, None)
        return files


def signed_member(body: bytes, name: str) -> tuple[str, bytes]:
    """The text of the member `name`, exactly as sent, and the signature over it.

    The signature covers the bytes that the service sent, so the text is cut out and not written anew: another JSON
    writer may order or escape differently. Raises CollateralError `collateral_malformed`.
    """
    decoder, spans, values = JSONDecoder(), {}, {}
    try:
        text = body.decode("utf-8")
        at = _skip(text, 0)
        if text[at : at + 1] != "{":
            raise malformed("the answer is not a JSON object")
        while text[at] != "}":
            key, at = decoder.raw_decode(text, _skip(text, at + 1))
            at = _skip(text, at)
            if not isinstance(key, str) or key in spans or text[at] != ":":
                raise malformed("the answer is not a JSON object with distinct members")
            start = _skip(text, at + 1)
            values[key], end = decoder.raw_decode(text, start)
            spans[key] = text[start:end]
            at = _skip(text, end)
            if text[at] not in ",}":
                raise malformed("the answer is not a JSON object")
        if _skip(text, at + 1) != len(text):
            raise malformed("bytes follow the answer's JSON object")
        if not isinstance(values.get(name), dict):
            raise malformed(f"the answer has no object {name!r}")
        signature = bytes.fromhex(values["signature"])
    except (UnicodeDecodeError, JSONDecodeError, IndexError, RecursionError):
        raise malformed("the answer is not JSON, or was cut off") from None
    except (KeyError, TypeError, ValueError):
        raise malformed("the answer has no signature in hexadecimal") from None
    if len(signature) != 64:
        raise malformed(f"a signature has 64 bytes, not {len(signature)}")
    return spans[name], signature


class _MayPassError(Exception):
    """A failure that another try may not meet."""


def _skip(text: str, at: int) -> int:
    match = WHITESPACE.match(text, at)
    return int(match.end()) if match else at


def _rank(collateral: Collateral) -> tuple[int, int, int]:
    facts = collateral.facts
    return facts.tcb_eval_number, facts.qe_eval_number, facts.issued


def _short(error: Exception) -> str:
    """The kind of a network failure; urllib3's own text repeats host, pool and object addresses."""
    inner = getattr(error, "reason", None)
    return type(inner if isinstance(inner, Exception) else error).__name__


def _chain(headers: urllib3.HTTPHeaderDict, *names: str) -> str:
    """An issuer chain from a header, where it stands URL-encoded."""
    for name in names:
        if value := headers.get(name):
            if len(value) > limits.ISSUER_CHAIN_BYTES:
                raise malformed(f"the header {name} is too long")
            return urllib.parse.unquote(value)
    raise malformed(f"the answer lacks the header {names[0]}")


def _der(body: bytes, what: str) -> bytes:
    """A CRL: DER, or hexadecimal text as some PCCS versions send it."""
    if body[:1] == b"\x30" and not all(byte in b"0123456789abcdefABCDEF" for byte in body[:64]):
        return body
    try:
        decoded = bytes.fromhex(body.decode("ascii"))
    except ValueError:
        decoded = b""
    if not decoded:
        raise malformed(f"the {what} is neither DER nor hexadecimal")
    return decoded
