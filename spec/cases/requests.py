# SPDX-License-Identifier: Apache-2.0
"""Challenges and requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clf import limits
from clf.wire import challenge
from clf.wire.encoding import b64url, compact_json
from clf.wire.keys import public_jwk
from clf.wire.request import report_data, request_digest, transfer_id
from spec.cases.forms import MALFORMED
from spec.cases.material import (
    AUDIENCE,
    CHALLENGE,
    CHALLENGE_KEY,
    ENCLAVE,
    KEY,
    LIST,
    NOW,
    OTHER_AUDIENCE,
    OTHER_ENCLAVE,
    READ,
    WRITE,
    Case,
    case,
    make_request,
    private_jwk,
    random,
)


def cases() -> Iterator[Case]:
    """All of this module's."""
    yield from _challenges()
    yield from _good()
    yield from _bad()


def _challenges() -> Iterator[Case]:
    def one(name: str, about: str, expect: str = "ok", *, text: str = CHALLENGE, now: int = NOW, **other: Any) -> Case:
        fields = {"audience": AUDIENCE, "keys": {"c1": CHALLENGE_KEY.hex()}} | other
        return case(f"challenge_{name}", "challenge", about, expect, challenge=text, now=now, **fields)

    altered = CHALLENGE[:20] + ("A" if CHALLENGE[20] != "A" else "B") + CHALLENGE[21:]
    yield one("fresh", "informative: how this server makes challenges; clients treat them as opaque")
    yield one("at_120_seconds", "the last moment", now=NOW + 120)
    yield one("after_121_seconds", "too old", "challenge_expired", now=NOW + 121)
    yield one("5_seconds_ahead", "replicas' clocks may differ a little", now=NOW - 5)
    yield one("6_seconds_ahead", "from the future", "challenge_invalid", now=NOW - 6)
    yield one("altered", "one character changed", "challenge_invalid", text=altered)
    yield one(
        "other_audience", "issued by the same key for another owner", "challenge_invalid", audience=OTHER_AUDIENCE
    )
    yield one("key_retired", "its key is no longer held", "challenge_invalid", keys={"c2": CHALLENGE_KEY.hex()})
    yield one("not_base64url", "no challenge at all", "challenge_invalid", text="not a challenge")
    yield one("empty", "no challenge at all", "challenge_invalid", text="")
    later = challenge.issue(key_id="c2", key=random("next key"), audience=AUDIENCE, now=NOW, random=random("later", 16))
    both = {"c1": CHALLENGE_KEY.hex(), "c2": random("next key").hex()}
    yield one("key_rotated", "made with the newer of two keys", text=later, keys=both)


def _request(name: str, about: str, request: bytes, expect: str = "ok", **other: Any) -> Case:
    fields: dict[str, Any] = {"request": b64url(request)}
    if expect == "ok":
        fields |= {
            "request_text": request.decode("utf-8"),
            "report_data_hex": report_data(request).hex(),
            "id": transfer_id(request),
            "digest": b64url(request_digest(request)),
        }
    return case(name, "request", about, expect, **(fields | other))


def _good() -> Iterator[Case]:
    yield _request("report_data_basic", "what evidence covers, and the transfer's id, for the read of a file", READ)
    spaced = json.dumps(json.loads(READ), indent=1).encode("ascii")
    yield _request("report_data_spaced", "the same members in other bytes: another request, another id", spaced)
    yield _request("request_read_range", "a part of a file", make_request(offset=4096, length=100))
    yield _request("request_read_if_match", "a read that insists on a version", make_request(if_match="v-1_A"))
    yield _request("request_read_folder", "everything below a folder", make_request(path="images/"))
    yield _request("request_read_everything", "the owner's whole folder", make_request(path="/"))
    yield _request("request_list", "the names below a folder", LIST)
    yield _request("request_write", "a result of at most 1 MiB", WRITE)
    yield _request("request_write_unbounded", "a result whose size is not known yet", make_request("write", size=None))
    yield _request("request_key", "a named key", KEY)
    unicode = make_request(path="données/患者 1.csv")
    yield _request("request_unicode_escaped", "a path in escapes", unicode)
    raw = json.dumps(json.loads(unicode), ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    yield _request("request_unicode_raw", "the same path in UTF-8: other bytes, so another request", raw)
    longest = make_request(path="/".join(["é" * 102] * 4 + ["é" * 102]), offset=0, length=1, if_match="a" * 64)
    yield _request("request_longest_path", "1,024 bytes of path, escaped", longest)


def _bad() -> Iterator[Case]:
    base: dict[str, Any] = json.loads(READ)

    def bad(name: str, about: str, /, drop: str = "", **members: Any) -> Case:
        value = {key: item for key, item in (base | members).items() if key != drop}
        return _request(f"request_{name}", about, compact_json(value), MALFORMED)

    def action(name: str, about: str, request: bytes, /, drop: str = "", **members: Any) -> Case:
        value = {key: item for key, item in (json.loads(request) | members).items() if key != drop}
        return _request(f"request_{name}", about, compact_json(value), MALFORMED)

    yield _request("request_empty", "no bytes", b"", MALFORMED)
    yield _request("request_not_object", "a JSON array", b"[" + READ + b"]", MALFORMED)
    yield _request("request_duplicate_member", "the path twice", READ[:-1] + b',"path":"b"}', MALFORMED)
    yield _request("request_too_long", "8,193 bytes", READ + b" " * (limits.REQUEST_BYTES + 1 - len(READ)), MALFORMED)
    yield _request("request_negative_zero", "zero is written 0", READ[:-1] + b',"offset":-0,"length":1}', MALFORMED)
    yield _request("request_lone_surrogate", "no Unicode text", READ.replace(b"2024", b"\\ud800"), MALFORMED)
    for member in ("audience", "challenge", "run", "key", "action", "path"):
        yield bad(f"without_{member}", f"{member} is missing", drop=member)
    yield bad("unknown_member", "a member that this version does not know", priority=1)
    yield bad("action_unknown", "no such action", action="delete")
    yield bad("action_not_string", "an action that is an array", action=["read"])
    yield bad("audience_short", "31 bytes", audience=b64url(random("short", 31)))
    yield bad("audience_padded", "base64url has no padding here", audience=AUDIENCE + "=")
    yield bad("run_15_bytes", "one byte short", run=b64url(random("run", 15)))
    yield bad("challenge_too_long", "513 characters", challenge="A" * 513)
    yield bad("challenge_not_string", "a number", challenge=1)
    yield bad("key_private", "the private part must never leave the enclave", key=private_jwk(ENCLAVE))
    off = public_jwk(ENCLAVE.public_key()) | {"y": public_jwk(OTHER_ENCLAVE.public_key())["y"]}
    yield bad("key_off_curve", "a point that is not on P-256", key=off)
    yield bad("key_not_object", "a string", key="A")
    yield bad("path_absolute", "the path grammar holds", path="/etc/passwd")
    yield bad("path_not_string", "null", path=None)
    yield bad("name_with_read", "a key's name in a read", name="archive-2024")
    yield bad("size_with_read", "a size in a read", size=1)
    yield bad("offset_without_length", "a range has both", offset=1)
    yield bad("length_without_offset", "a range has both", length=1)
    yield bad("offset_negative", "before the file", offset=-1, length=1)
    yield bad("offset_true", "a boolean is no number", offset=True, length=1)
    yield bad("offset_string", "a string is no number", offset="1", length=1)
    yield bad("range_beyond", "ends after 2^52 - 1", offset=limits.FILE_BYTES, length=1)
    yield bad("range_of_folder", "a folder is read whole", path="images/", offset=0, length=1)
    yield bad("if_match_of_folder", "a folder has no version of its own", path="images/", if_match="a")
    yield bad("if_match_quoted", "an etag here has no quotes", if_match='"a"')
    yield bad("if_match_empty", "no version at all", if_match="")
    yield action("list_of_file", "a list names a folder", LIST, path="images")
    yield action("list_range", "a list has no range", LIST, offset=0, length=1)
    yield action("write_of_folder", "one result is one file", WRITE, path="reports/")
    yield action("write_range", "a write has no range", WRITE, offset=0, length=1)
    yield action("write_if_match", "results are never overwritten", WRITE, if_match="a")
    yield action("key_with_path", "a key has a name, not a path", KEY, path="a")
    yield action("key_without_name", "the name is missing", KEY, drop="name")
    yield action("key_name_upper_case", "names of keys are lower case", KEY, name="Archive")
    yield action("key_name_too_long", "65 characters", KEY, name="a" * 65)
    yield action("key_name_with_slash", "a name is not a path", KEY, name="a/b")
