# SPDX-License-Identifier: Apache-2.0
"""Properties of encodings, names, globs, requests and documents, for any input that hypothesis finds."""

from __future__ import annotations

import contextlib
import json
import re
import string

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from clf import limits
from clf.errors import ClfError, WireError
from clf.wire import documents, paths, request
from clf.wire.encoding import b64url, compact_json, parse_object, readable, unb64url
from clf.wire.grant import Grant
from clf.wire.keys import public_from_jwk, public_jwk
from clf.wire.paths import PathError
from clf.wire.problem import CODES, decode_problem, encode_problem
from spec.cases.material import ENCLAVE, READ, make_request

SEGMENTS = st.text(st.sampled_from("ab.é患*? "), min_size=1, max_size=4).filter(lambda s: s not in (".", ".."))
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
FOLDERS = st.one_of(st.just("/"), PATHS.map(lambda path: path + "/"))
GLOB_SEGMENTS = st.one_of(
    st.just("**"),
    st.text(st.sampled_from("ab*?é"), min_size=1, max_size=5).filter(lambda s: "**" not in s),
)
GLOBS = st.lists(GLOB_SEGMENTS, min_size=1, max_size=4).map("/".join)
NUMBERS = st.integers(0, limits.FILE_BYTES)
ETAGS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=64)


def oracle(glob: str) -> re.Pattern[str]:
    """A glob as one regular expression over whole file names, written without looking at the product's way."""
    segments = glob.split("/")
    out = ""
    for i, segment in enumerate(segments):
        last = i == len(segments) - 1
        if segment == "**":
            out += "[^/]+(?:/[^/]+)*" if last else "(?:[^/]+/)*"
        else:
            parts = {"*": "[^/]*", "?": "[^/]"}
            out += "".join(parts.get(c) or re.escape(c) for c in segment) + ("" if last else "/")
    return re.compile(out, re.DOTALL)


@given(st.binary())
def test_base64url_round_trip(data: bytes) -> None:
    """Bytes have one base64url form, without padding, that reads back."""
    assert unb64url(b64url(data), "x") == data
    assert "=" not in b64url(data)


@given(st.text(st.sampled_from("AZaz09-_+/= \n=é"), max_size=12))
def test_base64url_has_one_form(text: str) -> None:
    """No two texts mean the same bytes: what is accepted is exactly what would be written."""
    try:
        data = unb64url(text, "x")
    except WireError:
        return
    assert b64url(data) == text


@given(st.binary(max_size=200))
def test_parsing_fails_only_in_our_own_way(data: bytes) -> None:
    """Whatever arrives, the parsers raise nothing but errors of this package."""
    for read in (
        lambda: parse_object(data, "x", most=1000),
        lambda: request.parse(data),
        lambda: documents.Status.decode(data),
        lambda: documents.Commit.decode(data),
        lambda: documents.decode_manifest(data),
        lambda: Grant.from_json(data),
    ):
        with contextlib.suppress(ClfError):
            read()
    decode_problem(404, data)


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(st.sampled_from(sorted(json.loads(make_request(offset=0, length=1, if_match="a")))), JSON_VALUES)
def test_any_member_of_any_type_is_refused_in_our_own_way(member: str, value: object) -> None:
    """A member of another type is `malformed`, never a defect of the server."""
    members = json.loads(make_request(offset=0, length=1, if_match="a")) | {member: value}
    try:
        request.parse(json.dumps(members).encode())
    except WireError as error:
        assert error.code == "malformed"  # noqa: PT017 - not raising is fine too


@given(PATHS)
def test_paths_of_the_grammar_are_kept_as_they_are(path: str) -> None:
    """check_path changes nothing, and a folder is told by its trailing slash."""
    assert paths.check_file(path) == path
    assert paths.check_path(path + "/") == path + "/"
    assert paths.is_directory(path + "/")
    with pytest.raises(PathError):
        paths.check_file(path + "/")


@given(st.text(max_size=30))
def test_accepted_paths_cannot_leave_the_folder(path: str) -> None:
    """Whatever is accepted has only plain names as segments."""
    try:
        paths.check_path(path)
    except PathError:
        return
    if path == "/":
        return
    names = path.removesuffix("/").split("/")
    assert all(name not in ("", ".", "..") and "\\" not in name and "\0" not in name for name in names)
    assert not names[0].startswith(".clf")


@given(GLOBS, PATHS)
def test_globs_agree_with_a_regular_expression(glob: str, path: str) -> None:
    """A glob covers the files that the plain translation into one regular expression covers."""
    assert paths.match_glob(paths.check_glob(glob), path) == (oracle(glob).fullmatch(path) is not None)


@given(GLOBS, FOLDERS, PATHS)
def test_a_covered_folder_covers_every_file_below(glob: str, folder: str, below: str) -> None:
    """Granting a folder never grants a file that the glob itself would refuse."""
    if paths.match_glob(glob, folder):
        name = below if folder == "/" else folder + below
        assert paths.match_glob(glob, name)


def test_globs_with_many_stars_stay_cheap() -> None:
    """A glob with many stars on a long name does not blow up: it would not end within this test's lifetime."""
    glob = "*a" * 60 + "*b"
    assert not paths.match_glob(paths.check_glob(glob), "a" * 255)
    assert paths.match_glob(glob, "a" * 250 + "b")


@given(PATHS, st.one_of(st.none(), st.tuples(st.integers(0, 1 << 40), NUMBERS)), st.one_of(st.none(), ETAGS))
def test_read_requests_round_trip(path: str, span: tuple[int, int] | None, if_match: str | None) -> None:
    """What build writes, parse reads, member by member."""
    offset, length = span if span else (None, None)
    if span and sum(span) > limits.FILE_BYTES:
        with pytest.raises(WireError):
            make_request(path=path, offset=offset, length=length, if_match=if_match)
        return
    found = request.parse(make_request(path=path, offset=offset, length=length, if_match=if_match))
    assert (found.path, found.offset, found.length, found.if_match) == (path, offset, length, if_match)
    assert public_jwk(found.public_key) == public_jwk(ENCLAVE.public_key())
    assert found.subject == path
    assert not found.is_directory


@given(st.integers(0, len(READ) - 1), st.integers(1, 255))
def test_report_data_and_id_cover_every_byte(at: int, change: int) -> None:
    """No byte of R can change without changing report data, id and digest."""
    other = READ[:at] + bytes([READ[at] ^ change]) + READ[at + 1 :]
    assert request.report_data(other) != request.report_data(READ)
    assert request.transfer_id(other) != request.transfer_id(READ)
    assert request.request_digest(other) != request.request_digest(READ)


def test_the_longest_request_fits() -> None:
    """A request whose every member is at its longest, in escapes, stays within the limit for R."""
    path = "/".join(["é" * 102] * 5)
    longest = make_request(path=path, challenge="A" * 512, offset=limits.FILE_BYTES - 1, length=1, if_match="a" * 64)
    assert len(path.encode()) == limits.PATH_BYTES
    assert len(longest) <= limits.REQUEST_BYTES


def test_a_request_of_8_kib_is_read_and_one_byte_more_is_refused() -> None:
    """The limit for R holds at its edge."""
    request.parse(READ + b" " * (limits.REQUEST_BYTES - len(READ)))
    with pytest.raises(WireError, match="at most 8192"):
        request.parse(READ + b" " * (limits.REQUEST_BYTES + 1 - len(READ)))


ENTRIES = st.lists(
    st.builds(documents.ManifestEntry, path=PATHS, size=NUMBERS, etag=ETAGS, modified=NUMBERS),
    unique_by=lambda entry: entry.path,
    max_size=8,
).map(lambda entries: sorted(entries, key=lambda entry: entry.path.encode()))


@given(ENTRIES)
def test_manifests_round_trip(entries: list[documents.ManifestEntry]) -> None:
    """A manifest reads back as written."""
    assert documents.decode_manifest(documents.encode_manifest(entries)) == entries


def test_a_manifest_has_a_largest_size() -> None:
    """A folder of more files than one transfer takes is refused with its own code, on both sides."""
    entry = documents.ManifestEntry("a", 0, "e", 0)
    with pytest.raises(WireError) as caught:
        documents.encode_manifest([entry] * (limits.MANIFEST_ENTRIES_COUNT + 1))
    assert caught.value.code == "too_many_entries"
    with pytest.raises(WireError, match="at most"):
        documents.decode_manifest(b"\n" * (limits.MANIFEST_ENTRIES_COUNT + 1))
    with pytest.raises(WireError, match="at most"):
        documents.decode_manifest(bytes(limits.MANIFEST_BYTES + 1))


@given(NUMBERS, st.binary(min_size=32, max_size=32), st.lists(st.binary(min_size=32, max_size=32), max_size=4))
def test_commits_round_trip(size: int, digest: bytes, inputs: list[bytes]) -> None:
    """A commit reads back as written, and its digest does not change on the way."""
    items = tuple(documents.Input(owner=b64url(item), transfer=b64url(item[::-1])) for item in inputs)
    commit = documents.Commit(size, digest.hex(), items)
    found = documents.Commit.decode(commit.encode())
    assert found == commit
    assert found.digest == commit.digest


def test_a_commit_names_at_most_1000_inputs() -> None:
    """The limit for inputs holds at its edge, and the longest commit fits into its body."""
    item = documents.Input(owner="A" * 43, transfer="A" * 43)
    longest = documents.Commit(limits.FILE_BYTES, "0" * 64, (item,) * limits.COMMIT_INPUTS_COUNT).encode()
    assert len(documents.Commit.decode(longest).inputs) == limits.COMMIT_INPUTS_COUNT
    assert len(longest) < limits.COMMIT_BODY_BYTES - 1024
    with pytest.raises(WireError, match="at most 1001"):
        documents.Commit.decode(longest + compact_json({"owner": "A" * 43, "transfer": "A" * 43}) + b"\n")


@pytest.mark.parametrize("code", sorted(CODES))
def test_problems_round_trip(code: str) -> None:
    """A client reads back the code that a server wrote."""
    error = decode_problem(CODES[code].status, encode_problem(code, reference="r-1", detail="because"))
    assert (error.code, error.status, error.reference) == (code, CODES[code].status, "r-1")
    assert "because" in str(error)


@given(st.text(max_size=50))
def test_foreign_text_cannot_move_the_cursor(text: str) -> None:
    """What an owner's error says is shown without control or direction characters."""
    assert readable(text, most=400).isprintable()


@pytest.mark.parametrize("member", ["secret", "token", "key"])
def test_a_malformed_secret_is_not_in_the_error(member: str) -> None:
    """An error about a secret never contains it."""
    value = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2V="
    grant = {"token": "t", "secret": b64url(bytes(32)), "size": 0, "expires_in": 1, "idle_in": 1, "etag": "e"}
    document = {"key": value} if member == "key" else grant | {member: value}
    with pytest.raises(WireError) as caught:
        Grant.from_json(compact_json(document))
    assert value[:8] not in str(caught.value)


def test_a_grant_shows_no_secret() -> None:
    """The repr of a grant has neither token, secret nor key."""
    shown = repr(Grant(token="tttt", secret=b"ssss", key=b"kkkk"))
    assert not any(part in shown for part in ("tttt", "ssss", "kkkk"))


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP224R1(), ec.SECP256K1()])
def test_keys_of_other_curves_are_refused(curve: ec.EllipticCurve) -> None:
    """A key on another curve is never labelled P-256."""
    with pytest.raises(WireError, match="not P-256"):
        public_jwk(ec.generate_private_key(curve).public_key())


def test_a_coordinate_beyond_the_field_is_refused() -> None:
    """x and x + p would be one point under two names, and so one key with two thumbprints."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    x = next(x for x in range(1, 50) if pow(x**3 - 3 * x + b, (prime - 1) // 2, prime) == 1)
    y = pow(x**3 - 3 * x + b, (prime + 1) // 4, prime)
    jwk = {"kty": "EC", "crv": "P-256", "x": b64url(x.to_bytes(32, "big")), "y": b64url(y.to_bytes(32, "big"))}
    public_from_jwk(jwk, "key")
    with pytest.raises(WireError, match="not a point"):
        public_from_jwk(jwk | {"x": b64url((x + prime).to_bytes(32, "big"))}, "key")
