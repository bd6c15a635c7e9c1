# SPDX-License-Identifier: Apache-2.0
"""The documents inside sealed bodies: status, manifest, commit and receipt (spec/protocol.md, section Documents).

Each is one flat JSON object a line, so that a language without a JSON library reads them with thirty lines of code.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import IntegrityError, WireError
from clf.wire import jose, paths
from clf.wire.encoding import b64url, compact_json, integer, members, parse_object, shown, text, unb64url
from clf.wire.request import check_etag, request_digest, transfer_id

RECEIPT_TYP = "clf-receipt+jws"
STATUS_BYTES = 1024
STATES = ("open", "committed", "closed", "revoked", "expired", "changed")
_LINE_BYTES = 8 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One file of a folder: its path, size in bytes, opaque version and time of change (seconds since the epoch)."""

    path: str
    size: int
    etag: str
    modified: int


def encode_manifest(entries: Iterable[ManifestEntry]) -> bytes:
    """One line an entry; the line's number, from 0, is the entry's index.

    The caller sorts the entries by the UTF-8 bytes of their paths. Raises WireError with code `too_many_entries` where
    the protocol has no room for them.
    """
    lines: list[bytes] = []
    size = 0
    for e in entries:
        line = compact_json({"path": e.path, "size": e.size, "etag": e.etag, "modified": e.modified}) + b"\n"
        lines.append(line)
        size += len(line)
        if len(lines) > limits.MANIFEST_ENTRIES_COUNT or size > limits.MANIFEST_BYTES:
            raise WireError(
                f"manifest: more than {limits.MANIFEST_ENTRIES_COUNT} files or {limits.MANIFEST_BYTES} bytes",
                code="too_many_entries",
            )
    return b"".join(lines)


def decode_manifest(data: bytes, *, folder: str = paths.ROOT) -> list[ManifestEntry]:
    """Parse the manifest of `folder` strictly: its paths lie below it, sorted by their bytes, none twice.

    Raises WireError.
    """
    if len(data) > limits.MANIFEST_BYTES:
        raise WireError(f"manifest: {len(data)} bytes, at most {limits.MANIFEST_BYTES}")
    prefix = "" if folder == paths.ROOT else folder
    entries = []
    for line in _lines(data, "manifest", limits.MANIFEST_ENTRIES_COUNT):
        value = parse_object(line, "manifest", most=_LINE_BYTES)
        members(value, "manifest", required=("path", "size", "etag", "modified"))
        entries.append(
            ManifestEntry(
                path=paths.check_file(value["path"]),
                size=integer(value, "size"),
                etag=check_etag(value["etag"], "etag"),
                modified=integer(value, "modified"),
            )
        )
    stray = [entry.path for entry in entries if not entry.path.startswith(prefix)]
    if stray:
        raise WireError(f"manifest: {shown(stray[0])} does not lie below {shown(folder)}")
    names = [entry.path.encode("utf-8") for entry in entries]
    if any(first >= second for first, second in itertools.pairwise(names)):
        raise WireError("manifest: not sorted by path, or a path stands twice")
    return entries


@dataclass(frozen=True, slots=True)
class Status:
    """How far a transfer is. `received` counts the durable bytes of a write; 0 for others."""

    state: str
    received: int = 0

    def encode(self) -> bytes:
        """As sent."""
        return compact_json({"state": self.state, "received": self.received})

    @classmethod
    def decode(cls, data: bytes) -> Status:
        """Parse strictly. Raises WireError."""
        value = parse_object(data, "status", most=STATUS_BYTES)
        members(value, "status", required=("state", "received"))
        if value["state"] not in STATES:
            raise WireError(f"state: {shown(value['state'])} is not one of {', '.join(STATES)}")
        return cls(state=value["state"], received=integer(value, "received"))


@dataclass(frozen=True, slots=True)
class Input:
    """An owner and a transfer that a result was computed from: hashes, so that owners learn no names of each other."""

    owner: str
    transfer: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What the enclave says that it sent: size in bytes, SHA-256 in hex, and what it was computed from.

    `sent` holds a received document's own bytes: the receipt acknowledges those, whatever spaces a language puts into
    its JSON.
    """

    size: int
    sha256: str
    inputs: tuple[Input, ...] = ()
    sent: bytes = field(default=b"", repr=False, compare=False)

    def encode(self) -> bytes:
        """As sent: the first line is the result, each further line an input."""
        if self.sent:
            return self.sent
        lines = [compact_json({"size": self.size, "sha256": self.sha256})]
        lines += [compact_json({"owner": item.owner, "transfer": item.transfer}) for item in self.inputs]
        return b"\n".join(lines) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Commit:
        """Parse strictly. Raises WireError."""
        lines = list(_lines(data, "commit", limits.COMMIT_INPUTS_COUNT + 1))
        if not lines:
            raise WireError("commit: empty")
        value = parse_object(lines[0], "commit", most=_LINE_BYTES)
        members(value, "commit", required=("size", "sha256"))
        if not isinstance(value["sha256"], str) or not _SHA256.fullmatch(value["sha256"]):
            raise WireError(f"sha256: {shown(value['sha256'])} is not 64 lower-case hex digits")
        inputs = []
        for line in lines[1:]:
            item = parse_object(line, "commit", most=_LINE_BYTES)
            members(item, "commit", required=("owner", "transfer"))
            for name in ("owner", "transfer"):
                unb64url(item[name], name, size=32)
            inputs.append(Input(owner=item["owner"], transfer=item["transfer"]))
        return cls(size=integer(value, "size"), sha256=value["sha256"], inputs=tuple(inputs), sent=bytes(data))

    @property
    def digest(self) -> str:
        """SHA-256 of the document as sent, base64url: what the receipt acknowledges."""
        return b64url(hashlib.sha256(self.encode()).digest())


@dataclass(frozen=True, slots=True)
class Receipt:
    """The owner's signed word that a result is published. `committed` in seconds since the epoch."""

    id: str
    request: str
    path: str
    size: int
    sha256: str
    document: str
    committed: int


def make_receipt(
    *,
    request: bytes,
    path: str,
    commit: Commit,
    committed: int,
    identity: ec.EllipticCurvePrivateKey,
    deterministic: bool = False,
) -> str:
    """Sign a receipt for a published result."""
    payload = compact_json(
        {
            "id": transfer_id(request),
            "request": b64url(request_digest(request)),
            "path": path,
            "size": commit.size,
            "sha256": commit.sha256,
            "document": commit.digest,
            "committed": committed,
        }
    )
    return jose.sign_jws(payload, identity, typ=RECEIPT_TYP, deterministic=deterministic)


def check_receipt(
    token: str, *, request: bytes, path: str, commit: Commit, identity: ec.EllipticCurvePublicKey
) -> Receipt:
    """Check that the owner acknowledges exactly this result of this transfer. Raises IntegrityError or WireError."""
    value = parse_object(jose.verify_jws(token, identity, typ=RECEIPT_TYP), "receipt", most=limits.GRANT_BYTES)
    members(value, "receipt", required=("id", "request", "path", "size", "sha256", "document", "committed"))
    receipt = Receipt(
        id=text(value, "id", most=64),
        request=text(value, "request", most=64),
        path=paths.check_file(value["path"]),
        size=integer(value, "size"),
        sha256=text(value, "sha256", most=64),
        document=text(value, "document", most=64),
        committed=integer(value, "committed"),
    )
    expected = (transfer_id(request), b64url(request_digest(request)), path, commit.size, commit.sha256, commit.digest)
    found = (receipt.id, receipt.request, receipt.path, receipt.size, receipt.sha256, receipt.document)
    if found != expected:
        raise IntegrityError("receipt: acknowledges another result", code="wrong_request")
    return receipt


def _lines(data: bytes, name: str, most: int) -> Iterator[bytes]:
    """Lines that each end in a newline; at most `most` of them."""
    if not data:
        return
    if not data.endswith(b"\n"):
        raise WireError(f"{name}: the last line has no end")
    lines: Sequence[bytes] = data[:-1].split(b"\n")
    if len(lines) > most:
        raise WireError(f"{name}: {len(lines)} lines, at most {most}")
    yield from lines
