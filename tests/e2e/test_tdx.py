# SPDX-License-Identifier: Apache-2.0
"""A trust domain's transfers, over real processes: evidence, collateral below /tdx, policy, release."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clf
from clf.errors import TransferError
from tests.world import MRENCLAVE, TRUST_DOMAIN, OwnerProcess, World, run_clf, running

FORMS = [{"version": 4}, {"version": 5}, {"version": 5, "td15": True}]


@pytest.fixture(scope="module")
def owner(everything: World) -> Iterator[OwnerProcess]:
    """An owner that knows one trust domain."""
    made = OwnerProcess(everything, "tdx-owner")
    made.put("patients.csv", b"age\n" + b"".join(b"%d\n" % (age % 90) for age in range(4000)))
    made.allow_td("trainer", read="**", write="**")
    with running(made):
        yield made


@pytest.mark.parametrize("form", FORMS)
def test_a_trust_domain_reads_and_returns_a_result(owner: OwnerProcess, form: dict[str, Any]) -> None:
    """Quote 4, quote 5 with TD 1.0, quote 5 with TD 1.5: each opens transfers both ways."""
    attester = owner.world.td_attester(**form)
    name = f"result-{form['version']}-{len(form)}.txt"
    with owner.connect(attester) as connection:
        assert connection.read_bytes("patients.csv") == (owner.data / "patients.csv").read_bytes()
        with connection.create(name) as writer:
            writer.write(b"done")
    assert (owner.results / name).read_bytes() == b"done"
    assert attester.count == 2
    released = [entry for entry in owner.audit() if entry["event"] == "released"]
    assert released[-1]["enclave"] == "trainer"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rtmr3": bytes(48)}, "no app was measured"),
        ({"rtmr3": b"\x44" * 48}, "another app was measured"),
        ({"mr_td": b"\x44" * 48}, "no enclave of the policy"),
        ({"rtmr0": b"\x44" * 48}, "no enclave of the policy"),
        ({"rtmr1": b"\x44" * 48}, "no enclave of the policy"),
        ({"rtmr2": b"\x44" * 48}, "no enclave of the policy"),
        ({"mr_seam": b"\x44" * 48}, "no enclave of the policy"),
        ({"mr_config_id": b"\x44" * 48}, "mr_config_id is"),
        ({"mr_owner": b"\x44" * 48}, "mr_owner is"),
        ({"flags": 1 << 28 | 1 << 63}, "td_attributes is"),
        ({"flags": 1 << 28 | 1 << 0}, "debug"),
        ({"flags": 0}, "SEPT_VE_DISABLE"),
    ],
)
def test_another_trust_domain_is_refused(owner: OwnerProcess, changed: dict[str, Any], reason: str) -> None:
    """One other register, configuration or attribute, and nothing is released; the owner finds out which."""
    with (
        owner.connect(owner.world.td_attester(**changed)) as connection,
        pytest.raises(TransferError) as caught,
    ):
        connection.read_bytes("patients.csv")
    assert caught.value.code in ("not_authorised", "evidence_invalid")
    assert reason in owner.denials()[-1]["reason"]


def test_the_evidence_s_kind_must_be_the_one_announced(owner: OwnerProcess) -> None:
    """An SGX enclave with the app's measurement is not the trust domain."""
    with owner.connect(owner.world.attester()) as connection, pytest.raises(TransferError) as caught:
        connection.read_bytes("patients.csv")
    assert caught.value.code == "not_authorised"


def test_a_new_app_in_the_same_machine(owner: OwnerProcess, tmp_path: Path) -> None:
    """The value that `clf measure --tdx-rtmr` prints is what the owner allows, and then the app of that digest."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "clf.toml").write_text('[app]\nname = "trainer"\ncommand = ["python3", "main.py"]\nfiles = ["main.py"]\n')
    (app / "main.py").write_text("print('hello')\n")
    value = run_clf("measure", app, "--tdx-rtmr").strip()
    assert value == json.loads(run_clf("measure", app, "--json"))["tdx_rtmr3"]
    attester = owner.world.td_attester(rtmr3=bytes.fromhex(value))
    with owner.connect(attester) as connection:
        with pytest.raises(TransferError):
            connection.read_bytes("patients.csv")
        run_clf("server", "allow", "trainer", "--dir", owner.folder, "--rtmr3", value, expect=3)  # add or replace?
        run_clf("server", "allow", "trainer", "--dir", owner.folder, "--rtmr3", value, "--update", "add")
        owner.reload()
        assert connection.read_bytes("patients.csv")
    with owner.connect(owner.world.td_attester()) as connection:
        assert connection.read_bytes("patients.csv")  # the former app still may


def test_the_register_starts_from_zero_and_holds_one_digest() -> None:
    """The value is the SHA-384 extension of zero by the app's digest, written out from the design and not from code."""
    import hashlib

    digest = hashlib.sha384(b"clf-app-rtmr-v1\0" + MRENCLAVE).digest()
    assert TRUST_DOMAIN["rtmr3"] == hashlib.sha384(bytes(48) + digest).digest()


def test_the_commands_say_what_a_trust_domain_needs(owner: OwnerProcess) -> None:
    """Nothing is assumed: a register that is not given is asked for, and the check explains the rule in words."""
    with pytest.raises(AssertionError, match="--rtmr3 HEX"):
        run_clf("server", "allow", "other", "--dir", owner.folder, "--mr-td", "11" * 48, "--platform", "any")
    assert "TDX domain 1111111111111111... with the app" in run_clf("server", "check", owner.folder)


def test_clf_connect_takes_a_tdx_attester(owner: OwnerProcess) -> None:
    """The client sends whatever kind of evidence its attester makes."""
    attester = owner.world.td_attester()
    with clf.connect(owner.url, ca=owner.ca, identity=owner.identity, attester=attester) as connection:
        assert connection.read_bytes("patients.csv")
    assert attester.quote(bytes(64)).format == "tdx-dcap"
