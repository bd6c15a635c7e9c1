# SPDX-License-Identifier: Apache-2.0
"""Quotes in files and certificates: taken out of each form, and of nothing that could be read in two ways."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from itertools import count

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from clf import limits
from clf.errors import AppraisalError, ClfError, WireError
from clf.simulator.platform import SimulatedPlatform
from clf.verify import cbor, der
from clf.verify.envelope import unwrap
from clf.verify.ratls import read_certificate
from tests.verify import certificates as make
from tests.verify.scene import NOW, SEED, real_quotes, scene, td_scene

QUOTE = scene().quote


def _pem(data: bytes, name: str = "QUOTE", width: int = 64) -> bytes:
    text = base64.b64encode(data).decode()
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    return "\r\n".join([f"-----BEGIN {name}-----", *lines, f"-----END {name}-----", ""]).encode()


FORMS = {
    "raw": (QUOTE, "raw"),
    "padded": (QUOTE + bytes(70), "raw"),
    "hex": (QUOTE.hex().encode(), "hex"),
    "HEX, 0x, wrapped": (
        b"0x" + QUOTE.hex().upper().encode()[:100] + b"\n" + QUOTE.hex().encode()[100:] + b"\n",
        "hex",
    ),
    "base64": (base64.b64encode(QUOTE), "base64"),
    "base64, wrapped": (base64.encodebytes(QUOTE), "base64"),
    "base64url": (base64.urlsafe_b64encode(QUOTE).rstrip(b"="), "base64"),
    "PEM": (_pem(QUOTE), "PEM"),
    "certificate": (make.ratls_certificate(dice=QUOTE), "RA-TLS certificate"),
    "certificate, PEM": (make.ratls_certificate(dice=QUOTE, pem=True), "RA-TLS certificate"),
    "certificate, legacy": (make.ratls_certificate(legacy=QUOTE), "RA-TLS certificate"),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form(name: str) -> None:
    """The same quote comes out of each form."""
    data, form = FORMS[name]
    found = unwrap(data)
    assert found.form == form
    assert found.quote.rstrip(b"\0") == QUOTE.rstrip(b"\0")
    assert (found.certificate is not None) == (form == "RA-TLS certificate")


def test_real_quotes_in_each_text_form() -> None:
    """Real quotes survive hexadecimal and base64: none is taken for the other."""
    for quote in real_quotes():
        for text in (quote.raw.hex().encode(), base64.b64encode(quote.raw), base64.urlsafe_b64encode(quote.raw)):
            assert unwrap(text).quote == quote.raw


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, world",
        b"{}",
        b"\xff\xfe",
        b"abc",
        b"0x",
        b"====",
        QUOTE.hex().encode()[:-1],
        QUOTE.hex().encode() + b"g",
        base64.b64encode(b"nothing"),
        _pem(b"nothing"),
        _pem(QUOTE) + _pem(QUOTE),
        _pem(QUOTE)[:-10],
        _pem(QUOTE).replace(b"END QUOTE", b"END OTHER"),
        b"x" + _pem(QUOTE),
        SimulatedPlatform(SEED, NOW).root_pem,
        SimulatedPlatform(SEED, NOW).root_der,
        bytes(limits.EVIDENCE_FILE_BYTES + 1),
    ],
    ids=count(),
)
def test_what_is_no_quote(data: bytes) -> None:
    """Anything else is refused by one code."""
    with pytest.raises(WireError) as caught:
        unwrap(data)
    assert caught.value.code == "evidence_form"
    assert caught.value.remedy


def test_certificates_that_libraries_refuse() -> None:
    """The reason for an own walker: NULL in a signature algorithm, which `cryptography` refuses."""
    strange = make.ratls_certificate(dice=QUOTE, null=True)
    with pytest.raises(ValueError, match="parsing asn1"):
        _ = x509.load_der_x509_certificate(strange).signature_hash_algorithm
    ordinary = make.ratls_certificate(dice=QUOTE, null=False)
    x509.load_der_x509_certificate(ordinary).verify_directly_issued_by(x509.load_der_x509_certificate(ordinary))
    assert read_certificate(strange).quote == read_certificate(ordinary).quote == QUOTE


@pytest.mark.parametrize("algorithm", [1, 7, 8])
def test_report_data_bind_the_certificate_s_key(algorithm: int) -> None:
    """SHA-256, SHA-384 and SHA-512 of the key; report data are the hash of the claims as they stand."""
    buffer = make.claims(algorithm, nonce=b"n" * 8)
    found = read_certificate(make.ratls_certificate(dice=QUOTE, buffer=buffer))
    assert (found.form, found.public_key) == ("dice", make.spki())
    assert found.report_data == make.dice_report_data(buffer)
    legacy = read_certificate(make.ratls_certificate(legacy=QUOTE))
    assert (legacy.form, legacy.report_data) == ("legacy", make.legacy_report_data())


def test_of_both_forms_the_interoperable_one_is_read() -> None:
    """Gramine's certificates carry two quotes: the one whose claims are explicit counts."""
    other = td_scene().quote
    found = read_certificate(make.ratls_certificate(dice=QUOTE, legacy=other))
    assert (found.form, found.quote) == ("dice", QUOTE)


def test_another_key_than_the_certificate_s() -> None:
    """Evidence that was made for another key does not become this certificate's."""
    buffer = make.claims(public=make.spki(make.key("P-256")))
    with pytest.raises(AppraisalError) as caught:
        read_certificate(make.ratls_certificate(dice=QUOTE, buffer=buffer))
    assert caught.value.code == "certificate_key"


_HASH = make.head(4, 2) + make.head(0, 1) + make.bstr(hashlib.sha256(make.spki()).digest())
_PUBKEY = make.tstr("pubkey-hash")


@pytest.mark.parametrize(
    "buffer",
    [
        b"",
        make.head(5, 0),
        make.head(5, 1) + make.tstr("nonce") + make.bstr(b"n"),
        make.head(5, 2) + (_PUBKEY + make.bstr(_HASH)) * 2,
        make.head(5, 1) + _PUBKEY + _HASH,
        make.head(5, 1) + _PUBKEY + make.bstr(_HASH + b"\0"),
        make.head(5, 1) + _PUBKEY + make.bstr(make.head(4, 1) + make.head(0, 1)),
        make.head(5, 1) + _PUBKEY + make.bstr(make.head(4, 2) + make.head(0, 2) + make.bstr(bytes(16))),
        make.head(5, 1)
        + _PUBKEY
        + make.bstr(make.head(4, 2) + b"\xf5" + make.bstr(hashlib.sha256(make.spki()).digest())),
        make.head(4, 2) + _PUBKEY + make.bstr(_HASH),
        b"\xbf" + _PUBKEY + make.bstr(_HASH) + b"\xff",
        b"\xb8\x01" + _PUBKEY + make.bstr(_HASH),
        make.claims() + b"\0",
    ],
    ids=count(),  # the bytes hold a fresh key's hash, and names must be the same in every test process
)
def test_claims_that_bind_no_key(buffer: bytes) -> None:
    """`pubkey-hash` must stand there exactly once, in the one form it has: else the quote is bound to nothing."""
    with pytest.raises(WireError) as caught:
        read_certificate(make.ratls_certificate(dice=QUOTE, buffer=buffer))
    assert caught.value.code == "evidence_form"


@pytest.mark.parametrize(
    "value",
    [
        make.head(6, 60001) + make.head(4, 2) + make.bstr(QUOTE) + make.bstr(make.claims()),
        make.head(4, 2) + make.bstr(QUOTE) + make.bstr(make.claims()),
        make.head(6, 60000) + make.head(4, 1) + make.bstr(QUOTE),
        make.head(6, 60000) + make.head(4, 3) + make.bstr(QUOTE) + make.bstr(make.claims()) + make.bstr(b""),
        make.head(6, 60000) + make.head(4, 2) + make.tstr("quote") + make.bstr(make.claims()),
    ],
    ids=["other tag", "no tag", "one part", "three parts", "text"],
)
def test_evidence_of_another_shape(value: bytes) -> None:
    """Another tag, no tag, or another list than a quote and its claims."""
    extension = make.der(0x30, make.DICE, make.der(0x04, value))
    with pytest.raises(WireError):
        read_certificate(make.ratls_certificate(extra=(extension,)))


def test_the_same_kind_of_evidence_twice() -> None:
    """Two readers could take two quotes out of such a certificate."""
    extension = make.der(0x30, make.LEGACY, make.der(0x04, QUOTE))
    with pytest.raises(WireError, match="twice"):
        read_certificate(make.ratls_certificate(legacy=QUOTE, extra=(extension,)))


def test_every_truncation_and_every_changed_length() -> None:
    """A certificate cut anywhere, or whose outline is changed, is refused by an error of CLF's or read alike."""
    whole = make.ratls_certificate(dice=QUOTE)
    for size in range(0, len(whole), 3):
        with pytest.raises(ClfError):
            read_certificate(whole[:size])
    for position in range(min(len(whole), 700)):
        for mask in (0x01, 0x80):
            changed = whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :]
            try:
                found = read_certificate(changed)
            except ClfError:
                continue
            assert found.report_data == make.dice_report_data(make.claims())


@given(st.binary(max_size=300))
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_never_crash_a_reader(data: bytes) -> None:
    """Whatever comes, the answer is a value or an error of CLF's."""
    readers: tuple[Callable[[bytes], object], ...] = (unwrap, read_certificate, cbor.loads, der.elements)
    codes = set()
    for read in readers:
        try:
            read(data)
        except ClfError as error:
            codes.add(error.code)
    assert codes <= {"evidence_form"}


_numbers = st.integers(-(1 << 64), (1 << 64) - 1)
_leaves = st.one_of(_numbers, st.binary(max_size=40), st.text(max_size=20), st.booleans(), st.none())


_values: st.SearchStrategy[object] = st.deferred(
    lambda: _leaves | st.lists(_values, max_size=3) | st.dictionaries(st.text(max_size=5), _values, max_size=3)
)


@given(_values)
@settings(max_examples=200, deadline=None)
def test_cbor_is_read_back(value: object) -> None:
    """What is written in the shortest form is read as it was."""
    deep = _depth(value) > 8
    if not deep:
        assert cbor.loads(_write(value)) == value
        return
    with pytest.raises(WireError, match="too deep"):
        cbor.loads(_write(value))


def _depth(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + max((_depth(item) for item in inner), default=0)


def _write(value: object) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, int):
        return make.head(0, value) if value >= 0 else make.head(1, -1 - value)
    if isinstance(value, bytes):
        return make.bstr(value)
    if isinstance(value, str):
        return make.tstr(value)
    if isinstance(value, list):
        return make.head(4, len(value)) + b"".join(_write(item) for item in value)
    assert isinstance(value, dict)
    return make.head(5, len(value)) + b"".join(_write(key) + _write(item) for key, item in value.items())
