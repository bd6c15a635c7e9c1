# SPDX-License-Identifier: Apache-2.0
"""Becoming a member of a cluster, and staying one: both sides prove to be the same app, then a key is certified.

    member     -> {"nonce"}                              32 random bytes
    authority  -> {"authority", "challenge", evidence}   its certificate, 32 random bytes, evidence over both and nonce
    member     -> {"key", "renews", evidence}            a fresh public key, evidence over it and all of the above;
                                                         "renews" is empty, or the certificate that the member has
    authority  -> {"certificate", "scheduler"}           for that key; and where the scheduler is

A renewal is a join: evidence anew on both sides, and a new key. It keeps the member's name, by which its connections go
on.

Four lines of JSON over a plain connection: nothing in them is secret, and nothing in them can be used by anybody but
the holder of the member's key, which was made in its enclave and stays there. The member checks the authority first,
because whoever certifies decides who will see its data. Where the scheduler is can be altered on the way, to no avail:
TLS under the authority is spoken there, or nothing. No IO happens here; clf.dask.service has the sockets.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from clf import limits
from clf.attest.base import Evidence
from clf.dask.authority import Authority, Membership, check_issued, private_pem, public_der
from clf.dask.peers import Peers
from clf.errors import IntegrityError, WireError
from clf.wire.encoding import b64url, compact_json, members, parse_object, shown, text, unb64url

_AUTHORITY_LABEL = b"clf-cluster-authority-v1\0"
_MEMBER_LABEL = b"clf-cluster-member-v1\0"
_RANDOM_BYTES = 32
_CERTIFICATE_BYTES = 4096
_ADDRESS_BYTES = 300
_SCHEDULER = re.compile(r"tls://[A-Za-z0-9._-]+:[0-9]{1,5}")


def _report_data(label: bytes, *parts: bytes) -> bytes:
    """64 bytes over all parts, each with its length, so that no two lists of parts give the same."""
    return hashlib.sha512(label + b"".join(struct.pack(">I", len(part)) + part for part in parts)).digest()


def _with_evidence(values: dict[str, str], evidence: Evidence) -> bytes:
    return compact_json({**values, "format": evidence.format, "quote": b64url(evidence.quote)})


def _evidence(value: dict[str, Any]) -> Evidence:
    quote = unb64url(value["quote"], "quote", most=limits.QUOTE_BYTES)
    return Evidence("tdx-dcap" if text(value, "format", most=16) == "tdx-dcap" else "sgx-dcap", quote)


def _read(line: bytes, *names: str) -> dict[str, Any]:
    value = parse_object(line, "join", most=limits.CLUSTER_MESSAGE_BYTES)
    members(value, "join", required=names)
    return value


@dataclass
class Admission:
    """The authority's side of one join; call `hello`, then `admit`, each once."""

    authority: Authority
    peers: Peers
    scheduler: str
    renewed: bool = False
    """Whether who was admitted was a member before."""
    _said: tuple[bytes, ...] = ()

    def hello(self, line: bytes) -> bytes:
        """Answer a nonce with the authority's certificate and evidence. Raises WireError, AttesterError."""
        nonce = unb64url(_read(line, "nonce")["nonce"], "nonce", size=_RANDOM_BYTES)
        certificate, challenge = _der(self.authority.certificate), os.urandom(_RANDOM_BYTES)
        self._said = (nonce, certificate, challenge)
        evidence = self.peers.attester.quote(_report_data(_AUTHORITY_LABEL, *self._said))
        return _with_evidence({"authority": b64url(certificate), "challenge": b64url(challenge)}, evidence)

    def admit(self, line: bytes) -> bytes:
        """Certify a key whose holder proved to be the same app.

        Raises WireError, AppraisalError, CollateralError, and IntegrityError where it renews no membership of here.
        """
        said, self._said = self._said, ()
        if not said:
            raise WireError("join: nobody said hello")
        value = _read(line, "key", "renews", "format", "quote")
        key = unb64url(value["key"], "key", most=256)
        renews = unb64url(value["renews"], "renews", most=_CERTIFICATE_BYTES)
        public = _public(key)
        self.peers.check(_evidence(value), _report_data(_MEMBER_LABEL, *said, key, renews))
        issued = self.authority.issue(public, _pem(renews) if renews else b"")
        self.renewed = bool(renews)
        return compact_json({"certificate": b64url(_der(issued)), "scheduler": self.scheduler})


@dataclass
class Application:
    """The member's side of one join, or of one renewal of `had`: `nonce`, `apply`, `accept`, in this order."""

    peers: Peers
    had: Membership | None = None
    _nonce: bytes = field(default_factory=lambda: os.urandom(_RANDOM_BYTES))
    _key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False
    )
    _authority: bytes = b""

    def nonce(self) -> bytes:
        """The first line."""
        return compact_json({"nonce": b64url(self._nonce)})

    def apply(self, line: bytes) -> bytes:
        """Check the authority, and ask it to certify the key.

        Raises WireError, AppraisalError, CollateralError, and IntegrityError where it is not the one that was joined.
        """
        value = _read(line, "authority", "challenge", "format", "quote")
        certificate = unb64url(value["authority"], "authority", most=_CERTIFICATE_BYTES)
        challenge = unb64url(value["challenge"], "challenge", size=_RANDOM_BYTES)
        said = (self._nonce, certificate, challenge)
        self.peers.check(_evidence(value), _report_data(_AUTHORITY_LABEL, *said))
        self._authority = _pem(certificate)
        if self.had is not None and self._authority != self.had.authority:
            raise IntegrityError(
                "another cluster answers where this one was joined", remedy="start its members anew, all of them"
            )
        key, renews = public_der(self._key.public_key()), _der(self.had.certificate) if self.had else b""
        evidence = self.peers.attester.quote(_report_data(_MEMBER_LABEL, *said, key, renews))
        return _with_evidence({"key": b64url(key), "renews": b64url(renews)}, evidence)

    def accept(self, line: bytes) -> Membership:
        """What the authority issued. Raises WireError, IntegrityError."""
        value = _read(line, "certificate", "scheduler")
        certificate = _pem(unb64url(value["certificate"], "certificate", most=_CERTIFICATE_BYTES))
        check_issued(certificate, self._authority, self._key.public_key())
        scheduler = text(value, "scheduler", most=_ADDRESS_BYTES)
        if not _SCHEDULER.fullmatch(scheduler):
            raise WireError(f"scheduler: not tls://HOST:PORT: {shown(scheduler)}")
        return Membership(self._authority, certificate, private_pem(self._key), scheduler)


def _public(der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(der)
    except ValueError:
        raise WireError("key: not a public key") from None
    public_der(key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise WireError("key: not on P-256")
    return key


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def _pem(der: bytes) -> bytes:
    try:
        return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    except ValueError:
        raise WireError("certificate: not one in DER") from None
