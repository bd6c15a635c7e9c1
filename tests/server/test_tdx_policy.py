# SPDX-License-Identifier: Apache-2.0
"""Trust domains and TCB settings in `clf_server.toml`, and by `clf server allow`."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clf.errors import ConfigError
from clf.server import edit
from clf.server.config import FILE_NAME, load
from clf.server.edit import Identity, Wish
from clf.server.explain import describe_tcb, sentences
from clf.verify.rules import LENIENT, STANDARD, TdxRule
from tests.server.owner import NOW, TEXT, changed, make, read, refusal

with_: Any = replace  # fields by name, as parameters give them
REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
LINES = [f'{name} = ["{number:02x}{"ab" * 47}"]' for number, name in enumerate(REGISTERS)]
TDX = "\n".join(["", "[enclave.domain]", *LINES, 'mr_seam = "any"', 'platforms = "any"', ""])
WHO = Identity(
    mr_td=("11" * 48,),
    rtmr0=("20" * 48,),
    rtmr1=("21" * 48,),
    rtmr2=("22" * 48,),
    rtmr3=("23" * 48,),
    mr_seam=("any",),
    platforms=("any",),
)
WHAT = Wish(read=("**",), max_runs="1", max_bytes="1")


def rule(text: str) -> TdxRule:
    """The rule of the trust domain."""
    found = read(text).policy.enclave("domain")
    assert found is not None
    assert found.tdx is not None
    return found.tdx


def tcb(text: str) -> str:
    """TEXT with another tcb."""
    return changed('tcb = "standard"', f"tcb = {text}")


def test_a_trust_domain_as_written() -> None:
    """All registers are read; what is left out is zero, Intel's module and no performance monitoring."""
    found = rule(TEXT + TDX)
    assert found.rtmr3 == (bytes.fromhex("04" + "ab" * 47),)
    assert (found.mr_seam, found.mr_config_id, found.mr_signer_seam) == ("any", bytes(48), bytes(48))
    assert (found.td_attributes, found.app_in_image) == (None, False)
    extended = f'mr_config_id = "{"cd" * 48}"\nmr_signer_seam = "{"ef" * 48}"\ntd_attributes = "0000001000000080"\n'
    found = rule(TEXT + TDX + extended)
    assert (found.mr_config_id, found.mr_signer_seam) == (b"\xcd" * 48, b"\xef" * 48)
    assert found.td_attributes == bytes.fromhex("0000001000000080")


@pytest.mark.parametrize("name", [*REGISTERS, "mr_seam"])
def test_a_register_that_is_missing(name: str) -> None:
    """Nothing is unchecked because it was left out."""
    lines = [line for line in TDX.splitlines() if not line.startswith(name)]
    assert "is missing" in refusal(TEXT + "\n".join(lines)).message


def test_an_app_that_nobody_measured() -> None:
    """Register 3 of zeros is refused with its line, unless the owner writes that the image measures the app."""
    text = TEXT + TDX.replace(LINES[4], f'rtmr3 = ["{"00" * 48}"]')
    error = refusal(text)
    assert "no app was measured" in error.message
    assert "--tdx-rtmr" in error.remedy
    assert error.line == text.splitlines().index(f'rtmr3 = ["{"00" * 48}"]') + 1
    assert rule(text + "app_in_image = true\n").app_in_image


@pytest.mark.parametrize(
    "line", ['td_attributes = "00"', 'mr_config_id = "any"', f'mr_signer_seam = "{"zz" * 48}"', 'mrenclave = ["00"]']
)
def test_wrong_values_of_a_trust_domain(line: str) -> None:
    """Sizes, words that are not hex, and SGX fields beside TDX ones are refused."""
    assert refusal(TEXT + TDX + line + "\n").line


def test_grace_as_a_number_or_for_each_status() -> None:
    """A number is for all stale statuses; a table names each one's."""
    found = read(tcb('{ profile = "lenient", grace_days = 10 }')).policy.enclaves[0].tcb
    assert found == replace(LENIENT, grace_days=10)
    text = '{ profile = "standard", statuses = ["UpToDate", "OutOfDate"], grace_days = { OutOfDate = 30 } }'
    found = read(tcb(text)).policy.enclaves[0].tcb
    assert (found.grace_of("OutOfDate"), found.grace_days) == (30, 0)
    assert "OutOfDate for 30 days" in describe_tcb(found)
    assert "accept nobody" in refusal(tcb('{ profile = "lenient", grace_days = { OutOfDate = 30 } }')).message
    assert refusal(tcb('{ profile = "standard", grace_days = { Outofdate = 30 } }')).line


def test_a_least_date() -> None:
    """Written as a date; the day begins at midnight UTC."""
    found = read(tcb('{ profile = "standard", min_tcb_date = 2025-08-13 }')).policy.enclaves[0].tcb
    assert found == replace(STANDARD, min_tcb_date=1755043200)
    assert "TCB level of 2025-08-13 or later" in describe_tcb(found)
    assert refusal(tcb('{ profile = "standard", min_tcb_date = "2025-08-13" }')).line


@pytest.mark.parametrize(
    "part",
    [
        'statuses = ["UpToDate"]',
        'advisories_tolerated = "any"',
        'advisories_refused = ["INTEL-SA-00615"]',
        "min_evaluation_number = 3",
        "smt = false",
        "dynamic_platform = false",
        "cached_keys = false",
    ],
)
def test_every_part_can_be_set_for_one_enclave(part: str) -> None:
    """Each part of a profile, alone."""
    found = read(tcb(f'{{ profile = "standard", {part} }}')).policy.enclaves[0].tcb
    name, value = next(iter(tomllib.loads(part).items()))
    assert found == with_(STANDARD, **{name: tuple(value) if isinstance(value, list) else value})
    assert found != STANDARD


def test_allow_describes_a_trust_domain(tmp_path: Path) -> None:
    """What is given is what is written, and the owner is told in words."""
    folder = make(tmp_path / "owner").folder
    change = edit.allow(folder, "domain", replace(WHO, td_attributes="0000001000000080"), WHAT, now=NOW)
    found = change.config.policy.enclave("domain")
    assert found is not None
    assert found.tdx is not None
    assert found.tdx.td_attributes == bytes.fromhex("0000001000000080")
    assert any("is TDX domain 1111111111111111... with the app" in line for line in sentences(load(folder), NOW))


@pytest.mark.parametrize("name", [*REGISTERS, "mr_seam"])
def test_allow_asks_for_what_is_missing(name: str, tmp_path: Path) -> None:
    """Each register by its option."""
    folder = make(tmp_path / "owner").folder
    with pytest.raises(ConfigError) as caught:
        edit.allow(folder, "domain", with_(WHO, **{name: ()}), WHAT, now=NOW)
    assert f"--{name.replace('_', '-')} " in caught.value.remedy


def test_allow_keeps_sgx_and_tdx_apart(tmp_path: Path) -> None:
    """One enclave is one or the other; an app that nobody measured needs the owner's word."""
    folder = make(tmp_path / "owner").folder
    with pytest.raises(ConfigError, match="--mrenclave and --mr-td"):
        edit.allow(folder, "domain", replace(WHO, mrenclave=("00" * 32,)), WHAT, now=NOW)
    with pytest.raises(ConfigError, match="no app was measured"):
        edit.allow(folder, "domain", replace(WHO, rtmr3=("00" * 48,)), WHAT, now=NOW)
    edit.allow(folder, "domain", replace(WHO, rtmr3=("00" * 48,), app_in_image=True), WHAT, now=NOW)


def test_another_app_is_added_or_replaces(tmp_path: Path) -> None:
    """A new rtmr3 for a known domain: only with the owner's word for what becomes of the former one."""
    folder = make(tmp_path / "owner").folder
    edit.allow(folder, "domain", WHO, WHAT, now=NOW)
    comment = "# a person's words\n"
    path = folder / FILE_NAME
    path.write_text(path.read_text() + comment)
    new = Identity(rtmr3=("33" * 48,))
    with pytest.raises(ConfigError, match="another rtmr3"):
        edit.allow(folder, "domain", new, Wish(), now=NOW)
    edit.allow(folder, "domain", new, Wish(), now=NOW, update="add")
    assert rule(path.read_text()).rtmr3 == (b"\x23" * 48, b"\x33" * 48)
    edit.allow(folder, "domain", new, Wish(), now=NOW, update="replace")
    assert rule(path.read_text()).rtmr3 == (b"\x33" * 48,)
    assert rule(path.read_text()).rtmr2 == (b"\x22" * 48,)
    assert comment in path.read_text()
    for wrong in (Identity(mrenclave=("00" * 32,)), Identity(mr_config_id="11" * 48), Identity(mr_seam=("11" * 48,))):
        with pytest.raises(ConfigError, match="described already"):
            edit.allow(folder, "domain", wrong, Wish(), now=NOW, update="add")
