# SPDX-License-Identifier: Apache-2.0
"""The form of an audit entry, and the names it may use. No IO. `docs/audit.md` is the owner's reference.

An entry is one line of JSON in ASCII. Its members are `n` (1, 2, 3, ...), `time`, `event`, the event's fields, `prev`
(the hash of the entry before) and `hash`, in this order. `hash` is the SHA-256 over a label and the line's own bytes up
to the member `hash`: what was written is what is hashed, so that no two programs can disagree about a canonical form.

Control characters, DEL and everything beyond ASCII are escaped, so a hostile name can neither forge a line nor drive
the terminal of whoever reads the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from clf import limits
from clf.errors import AuditError, WireError
from clf.wire.encoding import b64url, parse_object, shown

EVENTS: Final[Mapping[str, str]] = {
    "started": "a server process began to serve",
    "stopped": "a server process ended in order",
    "policy_loaded": "a policy came into force",
    "policy_refused": "a changed policy was not valid; the former one stays in force",
    "released": "a transfer was opened: from here on its enclave can read, list, write or has the key",
    "denied": "a request was refused",
    "suppressed": "refusals beyond the limit of a minute, which were only counted",
    "replayed": "the same request came again and got the stored answer; nothing was charged",
    "sent": "content of an open transfer was sent",
    "part_stored": "a part of a result was verified and is on the disk",
    "part_refused": "a part of a result was refused",
    "committed": "a result was published",
    "commit_refused": "a commit was refused",
    "receipt_repeated": "the receipt of a committed result was given again",
    "closed": "the client closed or gave up a transfer",
    "expired": "a transfer's idle or absolute time was over",
    "revoked": "a changed policy ended an open transfer",
    "source_changed": "a file changed while it was read, which ended its transfer",
    "recovered": "what an earlier process left unfinished was put in order",
    "rotated": "a key or certificate was prepared, put into use, or taken out of use",
    "backed_up": "a backup of the state was begun",
    "restored": "the state was restored from a backup; `reason` holds what the owner accepted, if anything",
    "recounted": "releases that the log shows and the state did not count were counted",
    "archived": "entries `first` to `last`, covered by an exported head, are being moved to an archive",
    "pruned": "entries `first` to `last`, covered by an exported head, are being removed",
    "failed": "a defect or a fault of the machine stopped a request",
    "torn": "an earlier process died while it wrote; what it left of a line is kept in this entry",
    "unsigned": "an earlier process died before it signed entries `first` to `last`; this entry's head covers them",
}

FIELDS: Final[Mapping[str, str]] = {
    # what was decided
    "reference": "what a refused client was told, to find this entry by",
    "decision": "allow or deny",
    "code": "the protocol's error code",
    "step": "the step of the procedure that refused",
    "reason": "what exactly was found, for the owner",
    "remedy": "what the owner can do if it should have been allowed",
    "grant": "the grant that allowed it",
    "policy_digest": "SHA-256 of the policy in force",
    "generation": "how often the policy has changed",
    # who asked
    "enclave": "the name the policy gives to the enclave",
    "tee": "sgx or tdx",
    "mrenclave": "SGX measurement, hex",
    "mrsigner": "SGX signer, hex",
    "product_id": "SGX ISV_PROD_ID",
    "svn": "SGX ISV_SVN",
    "mr_td": "TDX measurement, hex",
    "rtmr": "TDX run-time measurements 0 to 3, hex",
    "tcb_status": "the platform's TCB status",
    "tcb_date": "the date of that TCB",
    "advisories": "security advisories that apply to the platform",
    "fmspc": "the platform's family",
    "ppid": "the platform's PPID, hex",
    "root": "intel or simulation",
    "simulated": "true: nothing here proves anything about hardware",
    "address": "the peer's network address",
    "run": "the run of the app, hex",
    # what about
    "transfer": "the transfer's id",
    "action": "read, write, list or key",
    "path": "the file or folder",
    "name": "the named key",
    "etag": "the pinned version of the file",
    "index": "the entry of a directory transfer",
    "offset": "first byte",
    "length": "bytes asked for",
    "bytes": "bytes released, sent, received or published",
    "size": "size of the file",
    "sha256": "SHA-256 of the result, or of what a torn line left, hex",
    "entries": "files in a listing or directory transfer",
    "skipped": "names below a folder that are not servable",
    "count": "how many",
    "inputs": "what a result says it was computed from",
    # the server and the log itself
    "process": "process id",
    "version": "version of CLF",
    "listen": "address listened on",
    "file": "which file of the log or of the state was put in order; which backup or archive was written or read",
    "key": "what was rotated: identity, ca, certificate, challenge or transfer",
    "stage": "prepare, activate, finish, cancel, or rotate where there is one step only",
    "key_id": "the new key: its thumbprint, key id or certificate's SHA-256",
    "content": "what a torn line left, base64url, cut after 4 KiB",
    "first": "first entry meant",
    "last": "last entry meant",
}

RESERVED: Final = ("n", "time", "event", "prev", "hash")
GENESIS: Final = b64url(hashlib.sha256(b"clf-audit-v1\0genesis").digest())
"""`prev` of the first entry."""
_LABEL: Final = b"clf-audit-v1\0"
_END: Final = re.compile(rb',"hash":"([A-Za-z0-9_-]{43})"\}')
_END_BYTES: Final = len(',"hash":""}') + 43


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry whose own hash holds. `fields` are all members of the line."""

    n: int
    hash: str
    prev: str
    fields: Mapping[str, Any]


def encode_event(event: Mapping[str, Any]) -> str:
    """The members of one event as JSON without braces; the position in the chain is added by `encode_line`.

    Fields that are None are left out; over-long texts are cut, and say so. Raises AuditError for a name that is not in
    EVENTS or FIELDS and for values other than texts, integers, booleans and lists of texts.
    """
    if event.get("event") not in EVENTS:
        raise AuditError(f"{shown(event.get('event'))} is not an audit event", code="audit_event_unknown")
    values: dict[str, Any] = {"event": event["event"]}
    for name, value in event.items():
        if name == "event" or value is None:
            continue
        if name not in FIELDS:
            raise AuditError(f"{shown(name)} is not a field of audit entries", code="audit_field_unknown")
        values[name] = _value(name, value)
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=True, allow_nan=False)[1:-1].replace(
        "\x7f", "\\u007f"
    )
    if len(text) > limits.AUDIT_LINE_BYTES - 512:
        raise AuditError(f"an audit entry of {len(text)} bytes, at most {limits.AUDIT_LINE_BYTES - 512}")
    return text


def _value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        over = len(value) - limits.AUDIT_VALUE_CHARACTERS
        if over > 0 and name != "content":
            return f"{value[: limits.AUDIT_VALUE_CHARACTERS]}... ({over} characters more)"
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= limits.FILE_BYTES:
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        cut = [_value(name, item) for item in value[: limits.AUDIT_LIST_COUNT]]
        return cut if len(cut) == len(value) else [*cut, f"... ({len(value) - len(cut)} more)"]
    raise AuditError(f"audit field {name}: a {type(value).__name__} cannot be written down", code="audit_field_invalid")


def moment(now: float) -> str:
    """A time as entries have it: UTC, milliseconds, ISO 8601."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode_line(n: int, now: float, event: str, prev: str) -> tuple[bytes, str]:
    """One line with its newline, and its hash."""
    body = f'{{"n":{n},"time":"{moment(now)}",{event},"prev":"{prev}"'.encode("ascii")
    digest = _digest(body)
    return body + f',"hash":"{digest}"}}\n'.encode("ascii"), digest


def decode_line(line: bytes) -> Entry:
    """Parse one line (without its newline) and check its own hash. Raises AuditError saying what is wrong."""
    found = _END.fullmatch(line[-_END_BYTES:])
    if found is None:
        raise AuditError("not an entry: it does not end in a hash")
    if _digest(line[:-_END_BYTES]) != found[1].decode("ascii"):
        raise AuditError("its content is not what its hash says")
    try:
        fields = parse_object(line, "entry", most=limits.AUDIT_LINE_BYTES)
    except WireError as error:
        raise AuditError(error.message) from error
    names = list(fields)
    if names[:3] != ["n", "time", "event"] or names[-2:] != ["prev", "hash"]:
        raise AuditError("its members are not those of an entry")
    if not isinstance(fields["n"], int) or not all(isinstance(fields[name], str) for name in RESERVED[1:]):
        raise AuditError("its members are not those of an entry")
    return Entry(fields["n"], fields["hash"], fields["prev"], fields)


def _digest(body: bytes) -> str:
    return b64url(hashlib.sha256(_LABEL + body).digest())
