# SPDX-License-Identifier: Apache-2.0
"""What a request is about: the file, folder, result or key, its pinned version, and what the owner's log says of it."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field, replace

from clf import limits
from clf.server.keys import Keyring, read_private_file
from clf.server.refusal import Refusal
from clf.server.services import Facts, Services, etag_key
from clf.server.state import Transfer
from clf.verify.claims import Claims, SgxIdentity, TdxIdentity
from clf.verify.policy import Decision, Policy
from clf.wire.documents import ManifestEntry, encode_manifest
from clf.wire.encoding import b64url
from clf.wire.paths import covers
from clf.wire.request import TransferRequest

ETAG_BYTES = 16
_STEP = "11 subject"


@dataclass(frozen=True)
class Subject:
    """What will be released or stored. Sizes, offsets and lengths in bytes; `charged_bytes` is all it can release.

    Etag and secret of a transfer are derived from one transfer key, which may be rotated any moment: it is chosen here.
    """

    size: int = 0
    etag: str = ""
    offset: int = 0
    length: int = 0
    modified: int | None = None
    manifest: bytes | None = None
    named_key: bytes | None = field(default=None, repr=False)
    charged_bytes: int = 0
    facts: Facts = field(default_factory=dict)
    key_id: str = ""
    transfer_key: bytes = field(default=b"", repr=False)


def find(services: Services, policy: Policy, request: TransferRequest, decision: Decision) -> Subject:
    """Look up what an allowed request is about. Raises Refusal or StorageError."""
    ring = services.transfer_keys
    if request.action == "key":
        found, key_id = _key(services, policy, request), ring.current
    elif request.action == "write":
        found, key_id = _result(services, request), ring.current
    elif request.is_directory:
        found, key_id = _folder(services, policy, request, decision, etag_key(ring.current_key)), ring.current
    else:
        found, key_id = _file(services, request, ring)
    return replace(found, key_id=key_id, transfer_key=ring.keys[key_id])


def _file(services: Services, request: TransferRequest, ring: Keyring) -> tuple[Subject, str]:
    path, key_id = request.path or "", ring.current
    with services.data.open(path) as opened:
        etag = opened.etag(etag_key(ring.current_key))
        if request.if_match is not None and request.if_match != etag:
            # Named under a key that was rotated since: the version is the same, and its reader goes on under that key.
            for former in ring.keys:
                if request.if_match == opened.etag(etag_key(ring.keys[former])):
                    etag, key_id = request.if_match, former
        size, modified = opened.size, int(opened.modified)
    if size > services.config.limits.released_file_bytes:
        raise Refusal("too_large", f"{path} has {size} bytes", step=_STEP, remedy="raise released_file_bytes")
    if request.if_match is not None and request.if_match != etag:
        raise Refusal("version_mismatch", f"{path} has another version now", step=_STEP)
    offset = request.offset if request.offset is not None else 0
    length = request.length if request.length is not None else size
    if offset + length > size:
        raise Refusal("range_invalid", f"{path} has {size} bytes; {offset}+{length} is beyond", step=_STEP)
    return Subject(
        size=size,
        etag=etag,
        offset=offset,
        length=length,
        modified=modified,
        charged_bytes=length,
        facts={"etag": etag, "offset": offset, "length": length, "bytes": length},
    ), key_id


def _folder(services: Services, policy: Policy, request: TransferRequest, decision: Decision, key: bytes) -> Subject:
    grant = policy.grant(decision.grant or "")
    found = services.data.walk(
        request.path or "", services.config.limits.manifest_entries_count, settled=request.action == "read"
    )
    entries = []
    for entry in found.entries:
        # The decision covers everything below by its form; each name is checked all the same before it is listed.
        if grant is None or not covers(grant.paths, entry.path):
            raise Refusal("not_authorised", f"{entry.path} is not covered by the grant", step=_STEP)
        if request.action == "read" and entry.size > services.config.limits.released_file_bytes:
            raise Refusal(
                "too_large", f"{entry.path} has {entry.size} bytes", step=_STEP, remedy="raise released_file_bytes"
            )
        entries.append(
            ManifestEntry(path=entry.path, size=entry.size, etag=entry.etag(key), modified=int(entry.modified))
        )
    manifest = encode_manifest(entries)
    etag = b64url(hmac.digest(key, manifest, "sha256")[:ETAG_BYTES])
    total = sum(entry.size for entry in entries) if request.action == "read" else 0
    return Subject(
        size=len(manifest),
        etag=etag,
        length=len(manifest),
        manifest=manifest,
        charged_bytes=total,
        facts={
            "etag": etag,
            "entries": len(entries),
            "skipped": found.skipped,
            "bytes": total,
            "sha256": hashlib.sha256(manifest).hexdigest(),
        },
    )


def _result(services: Services, request: TransferRequest) -> Subject:
    path = request.path or ""
    most = services.config.limits.result_file_bytes
    if request.size is not None and request.size > most:
        raise Refusal("too_large", f"{request.size} bytes announced", step=_STEP, remedy="raise result_file_bytes")
    if services.results.exists(path):
        raise Refusal("result_exists", f"results/{path} exists", step=_STEP, remedy="move it away, or use another name")
    size = request.size if request.size is not None else most
    return Subject(size=size, facts={"size": size})


def _key(services: Services, policy: Policy, request: TransferRequest) -> Subject:
    rule = policy.key(request.name or "")
    if rule is None:
        raise Refusal("no_such_key", f"the policy has no key {request.name!r}", step=_STEP)
    path = services.config.folder / rule.file
    value = read_private_file(path, f"key {request.name}", limits.KEY_BYTES)
    if not value:
        raise Refusal("no_such_key", f"{path} is empty", step=_STEP)
    return Subject(named_key=value, facts={"bytes": len(value)})


def identity_facts(identity: SgxIdentity | TdxIdentity) -> Facts:
    """Who asked, as far as the quote says so before anything is proven."""
    if isinstance(identity, SgxIdentity):
        return {
            "tee": "sgx",
            "mrenclave": identity.mrenclave.hex(),
            "mrsigner": identity.mrsigner.hex(),
            "product_id": identity.product_id,
            "svn": identity.svn,
        }
    registers = (identity.rtmr0, identity.rtmr1, identity.rtmr2, identity.rtmr3)
    return {"tee": "tdx", "mr_td": identity.mr_td.hex(), "rtmr": [register.hex() for register in registers]}


def stored_facts(row: Transfer) -> Facts:
    """Who gets a stored answer again, and what is in it, as the entry of its release says.

    That entry may be missing: a full disk or a crash can come between the counters and the log, and then the replay is
    the first time that anything leaves.
    """
    claims = Claims.from_dict(json.loads(row.claims))
    identity = claims.sgx or claims.tdx
    facts: Facts = {"grant": row.grant, "enclave": row.enclave, "etag": row.etag or None}
    if row.action == "read":
        facts.update(offset=row.offset, length=row.length, bytes=row.charged_bytes)
    return {**(identity_facts(identity) if identity else {}), **claims_facts(claims), **facts}


def claims_facts(claims: Claims) -> Facts:
    """What appraisal proved about the platform."""
    return {
        "root": claims.root,
        "tcb_status": claims.platform.tcb_status,
        "advisories": list(claims.platform.advisories),
        "tcb_date": claims.platform.tcb_date,
        "fmspc": claims.platform.fmspc,
        "ppid": claims.platform.ppid,
    }
