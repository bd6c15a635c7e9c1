# SPDX-License-Identifier: Apache-2.0
"""Becoming a member of a cluster: both sides prove to be the same app, then a key is certified.

    member     -> {"nonce"}                              32 random bytes
    authority  -> {"authority", "challenge", evidence}   its certificate, 32 random bytes, evidence over both and nonce
    member     -> {"key", evidence}                      a fresh public key, evidence over it and all of the above
    authority  -> {"certificate"}                        for that key

Four lines of JSON over a plain connection: nothing in them is secret, and nothing in them can be used by anybody but
the holder of the member's key, which was made in its enclave and stays there. The member checks the authority first,
because whoever certifies decides who will see its data. No IO happens here; clf.dask.service has the sockets.
"""

from __future__ import annotations

import hashlib
import os
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
from clf.errors import WireError
from clf.wire.encoding import b64url, compact_json, members, parse_object, text, unb64url

_AUTHORITY_LABEL = b"clf-cluster-authority-v1\0"
_MEMBER_LABEL = b"clf-cluster-member-v1\0"
_RANDOM_BYTES = 32


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
    _said: tuple[bytes, ...] = ()

    def hello(self, line: bytes) -> bytes:
        """Answer a nonce with the authority's certificate and evidence. Raises WireError, AttesterError."""
        nonce = unb64url(_read(line, "nonce")["nonce"], "nonce", size=_RANDOM_BYTES)
        certificate, challenge = _der(self.authority.certificate), os.urandom(_RANDOM_BYTES)
        self._said = (nonce, certificate, challenge)
        evidence = self.peers.attester.quote(_report_data(_AUTHORITY_LABEL, *self._said))
        return _with_evidence({"authority": b64url(certificate), "challenge": b64url(challenge)}, evidence)

    def admit(self, line: bytes) -> bytes:
        """Certify a key whose holder proved to be the same app. Raises WireError, AppraisalError, CollateralError."""
        said, self._said = self._said, ()
        if not said:
            raise WireError("join: nobody said hello")
        value = _read(line, "key", "format", "quote")
        key = unb64url(value["key"], "key", most=256)
        public = _public(key)
        self.peers.check(_evidence(value), _report_data(_MEMBER_LABEL, *said, key))
        return compact_json({"certificate": b64url(_der(self.authority.issue(public)))})


@dataclass
class Application:
    """The member's side of one join: `nonce`, `apply`, `accept`, in this order."""

    peers: Peers
    _nonce: bytes = field(default_factory=lambda: os.urandom(_RANDOM_BYTES))
    _key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False
    )
    _authority: bytes = b""

    def nonce(self) -> bytes:
        """The first line."""
        return compact_json({"nonce": b64url(self._nonce)})

    def apply(self, line: bytes) -> bytes:
        """Check the authority, and ask it to certify the key. Raises WireError, AppraisalError, CollateralError."""
        value = _read(line, "authority", "challenge", "format", "quote")
        certificate = unb64url(value["authority"], "authority", most=4096)
        challenge = unb64url(value["challenge"], "challenge", size=_RANDOM_BYTES)
        said = (self._nonce, certificate, challenge)
        self.peers.check(_evidence(value), _report_data(_AUTHORITY_LABEL, *said))
        self._authority = _pem(certificate)
        key = public_der(self._key.public_key())
        evidence = self.peers.attester.quote(_report_data(_MEMBER_LABEL, *said, key))
        return _with_evidence({"key": b64url(key)}, evidence)

    def accept(self, line: bytes) -> Membership:
        """What the authority issued. Raises WireError, IntegrityError."""
        certificate = _pem(unb64url(_read(line, "certificate")["certificate"], "certificate", most=4096))
        check_issued(certificate, self._authority, self._key.public_key())
        return Membership(self._authority, certificate, private_pem(self._key))


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
