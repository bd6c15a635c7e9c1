# SPDX-License-Identifier: Apache-2.0
"""The library's refusals, by our codes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest

from clf.errors import AppraisalError, ClfError, CollateralError
from clf.simulator.platform import QeLevel, SimulatedPlatform, TcbLevel
from clf.verify import dcap
from tests.verify.scene import NOW, SEED, scene


def test_the_table_is_pinned_to_the_series_installed() -> None:
    """The sentences are those of dcap-qvl 0.7; another series needs a new look at them."""
    assert dcap_qvl.__version__.startswith("0.7.")


def test_every_sentence_of_the_table_exists_in_the_library() -> None:
    """A sentence that the library does not know would be a mapping that never fires."""
    (core,) = Path(str(dcap_qvl.__file__)).parent.glob("_dcap_qvl*.so")
    image = core.read_bytes()
    # The compiler builds short texts in registers, where they cannot be found.
    missing = [words for words, _, _ in dcap._TABLE if words.encode() not in image and len(words) > 16]
    assert missing == []


@pytest.mark.parametrize(
    ("platform", "code"),
    [
        ({"status": "Revoked"}, "tcb_revoked"),
        ({"levels": (TcbLevel(cpu_svn=b"\xff" * 16),)}, "tcb_level_unknown"),
        ({"levels": (TcbLevel(pce_svn=14),)}, "tcb_level_unknown"),
        ({"status": "Marvellous"}, "collateral_invalid"),
        ({"qe_svn": 0}, "qe_too_old"),
        ({"qe_levels": (QeLevel(9),)}, "qe_too_old"),
        ({"qe_flags": 0x17}, "qe_identity"),
        ({"qe_flags": 0x05}, "qe_identity"),
        ({"revoke": ("pck",)}, "certificate_revoked"),
        ({"revoke": ("ca",)}, "certificate_revoked"),
        ({"revoke": ("tcb",)}, "certificate_revoked"),
        ({"revoke": ("root",)}, "certificate_revoked"),
    ],
)
def test_what_the_library_refuses_has_its_code(platform: dict[str, Any], code: str) -> None:
    """Revocation, unknown levels and wrong quoting enclaves are refused, each by its own code."""
    assert scene(**platform).code() == code


def test_changed_parts_of_the_quote_have_their_codes() -> None:
    """An owner learns which link of the evidence is broken."""
    case = scene()
    codes = {}
    for name, position in (
        ("body", 48 + 64),
        ("signature", 436),
        ("attestation key", 436 + 64),
        ("QE report", 436 + 128),
        ("QE signature", 436 + 128 + 384),
        ("QE authentication data", 436 + 128 + 384 + 64 + 2),
    ):
        quote = bytearray(case.quote)
        quote[position] ^= 1
        codes[name] = case.with_(quote=bytes(quote)).code()
    assert codes == {
        "body": "quote_signature",
        "signature": "quote_signature",
        "attestation key": "qe_binding",
        "QE report": "qe_signature",
        "QE signature": "qe_signature",
        "QE authentication data": "qe_binding",
    }


@pytest.mark.parametrize(
    "part",
    ["tcb_info", "qe_identity", "tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl"],
)
def test_changed_collateral_is_the_collateral_s_fault(part: str) -> None:
    """An owner learns that the endorsements are broken, and does not blame the app."""
    case = scene()
    value = getattr(case.collateral, part)
    changed: Any = value.replace("00", "01", 1) if isinstance(value, str) else value[:-1] + bytes([value[-1] ^ 1])
    with pytest.raises(CollateralError) as caught:
        case.with_(collateral=dataclasses.replace(case.collateral, **{part: changed})).appraise()
    assert caught.value.code in {"collateral_invalid", "collateral_other_platform", "pce_id_mismatch"}


def test_unknown_wording_is_refused_as_such() -> None:
    """A sentence that nobody has mapped is a refusal, and says that it is unknown."""
    error = dcap.explain("Verification failed: the moon is not full")
    assert isinstance(error, AppraisalError)
    assert (error.code, error.message) == ("verifier_unknown", "the moon is not full")


def test_a_panic_of_the_library_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic in Rust is no Exception in Python; it must not take the server down, nor let anything through."""

    class PanicException(BaseException):
        pass

    class Verifier:
        def __init__(self, root: bytes | None) -> None:
            pass

        def verify_with_policy(self, *_: object) -> None:
            raise PanicException("index out of bounds")

    case = scene()
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", Verifier)
    assert case.code() == "verifier_unknown"


def test_no_refusal_shows_python_s_own_exceptions() -> None:
    """Foreign exceptions never leak: PCK certificates that hold anything at all give errors of CLF."""
    machine = SimulatedPlatform(SEED, NOW)
    for pem in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", machine.root_pem):
        with pytest.raises(ClfError):
            dcap.read_pck(pem)
