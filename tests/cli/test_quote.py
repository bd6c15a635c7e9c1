# SPDX-License-Identifier: Apache-2.0
"""`clf quote`: reports and exit codes, on simulated and real quotes, over real processes and services."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clf.simulator.pccs import Pccs
from clf.simulator.platform import SimulatedPlatform
from clf.verify.steps import STEPS
from tests.server.owner import make as make_owner
from tests.verify import certificates
from tests.verify.scene import NOW, REPORT_DATA, SEED, Scene, any_scene, real_quotes, scene, td_scene

AT = datetime.fromtimestamp(NOW, UTC).isoformat()


def clf(*arguments: object, expect: int = 0) -> str:
    """The command as a process; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "clf.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expect, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout or done.stderr


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the simulated platform's root."""
    (tmp_path / "root.pem").write_bytes(SimulatedPlatform(SEED, NOW).root_pem)
    return tmp_path


def lay(folder: Path, case: Scene) -> list[object]:
    """Write a case down; the arguments that verify it."""
    (folder / "quote").write_bytes(case.quote)
    (folder / "bundle.json").write_text(case.collateral.to_json())
    root = ["--simulation-root", folder / "root.pem"]
    return [folder / "quote", "--collateral", folder / "bundle.json", "--at", AT, *root]


def report(*arguments: object, expect: int = 0) -> dict[str, Any]:
    """`clf quote verify --json`."""
    found: dict[str, Any] = json.loads(clf("quote", "verify", *arguments, "--json", expect=expect))
    return found


@pytest.mark.parametrize("form", ["sgx", "tdx 5, TD 1.5"])
def test_a_good_quote(form: str, files: Path) -> None:
    """Exit code 0, all fourteen steps with their verdicts, platform, TCB level and validity windows."""
    arguments = lay(files, any_scene(form, status="SWHardeningNeeded", advisories=("INTEL-SA-00615",)))
    found = report(*arguments)
    assert found["ok"]
    assert found["simulated"]
    verdicts = {step["number"]: step["verdict"] for step in found["steps"]}
    assert verdicts == {number: "not compared" if number == 4 else "holds" for number in STEPS}
    assert found["claims"]["platform"]["tcb_status"] == "SWHardeningNeeded"
    assert {"TCB info", "QE identity", "PCK CRL", "root CA CRL"} <= {window["what"] for window in found["validity"]}
    text = clf("quote", "verify", *arguments)
    for word in ("SIMULATION", "INTEL-SA-00615", "PCK CRL", "14  mark and claims", "not compared", "verified as of"):
        assert word in text
    report(*arguments, "--report-data", REPORT_DATA.hex())
    refused = report(*arguments, "--report-data", "00" * 64, expect=1)
    assert refused["steps"][3]["code"] == "report_data_mismatch"


def test_a_refused_quote(files: Path) -> None:
    """Exit code 1; the step that refused, its code and remedy, and what was not reached."""
    arguments = lay(files, td_scene({"flags": 1}))
    found = report(*arguments, expect=1)
    verdicts = [step["verdict"] for step in found["steps"]]
    assert verdicts == ["holds"] * 3 + ["not compared", "refused"] + ["not reached"] * 9
    assert found["steps"][4]["code"] == "debug_enclave"
    assert found["steps"][4]["remedy"]
    assert (found["ok"], found["claims"]) == (False, None)
    assert "debug_enclave" in clf("quote", "verify", *arguments, expect=1)
    (files / "quote").write_bytes(b"\3\0" + bytes(100))
    assert report(*arguments, expect=1)["steps"][0]["code"] == "quote_size"
    assert "quote_size" in clf("quote", "verify", *arguments, expect=1)


def test_a_certificate_says_what_to_compare_with(files: Path) -> None:
    """From an RA-TLS certificate, step 4 is compared: the quote must be bound to the certificate's key."""
    machine = SimulatedPlatform(SEED, NOW)
    bound = certificates.dice_report_data(certificates.claims())
    quote = machine.quote(machine.report(bytes(32), bytes(32), bound))
    arguments = lay(files, scene())
    (files / "quote").write_bytes(certificates.ratls_certificate(dice=quote, pem=True))
    found = report(*arguments)
    assert found["steps"][3]["verdict"] == "holds"
    assert found["quote"]["certificate"]["bound"]
    (files / "quote").write_bytes(certificates.ratls_certificate(dice=scene().quote))
    assert report(*arguments, expect=1)["steps"][3]["code"] == "report_data_mismatch"
    other = certificates.claims(public=certificates.spki(certificates.key("P-256")))
    (files / "quote").write_bytes(certificates.ratls_certificate(dice=quote, buffer=other))
    assert "certificate_key" in clf("quote", "verify", *arguments, expect=1)


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_collateral_from_a_pccs(tee: str, files: Path) -> None:
    """Over HTTP, for SGX and TDX; a service that is not there is exit code 4, one without the model 1."""
    machine = SimulatedPlatform(SEED, NOW)
    quote, *_, option, root = lay(files, any_scene("sgx" if tee == "sgx" else "tdx 4"))
    with Pccs(machine) as pccs:
        report(quote, "--pccs", pccs.url, "--at", AT, option, root)
        (files / "quote").write_bytes(any_scene("sgx", fmspc=b"\1" * 6).quote)
        refused = report(quote, "--pccs", pccs.url, "--at", AT, option, root, expect=1)
        assert refused["steps"][7]["code"] == "collateral_refused"
        url = pccs.url
    gone = report(quote, "--pccs", url, "--at", AT, option, root, expect=4)
    assert gone["steps"][7]["code"] == "collateral_unavailable"


def test_an_owner_s_decision(files: Path) -> None:
    """--policy says whether the owner would know this enclave, and which step refuses; unknown is exit code 1."""
    owner = files / "owner"
    make_owner(owner, now=NOW)
    policy = owner / "clf_server.toml"
    text = policy.read_text().replace('trust = "intel"', 'trust = "simulation"\nsimulation_root = "../root.pem"')
    policy.write_text(text)
    arguments = lay(files, scene())[:5]  # the root comes from the policy
    unknown = report(*arguments, "--policy", policy, expect=1)
    assert unknown["ok"]
    assert (unknown["policy"]["known"], unknown["policy"]["step"]) == (False, "7 identity")
    assert "unknown to the policy" in clf("quote", "verify", *arguments, "--policy", policy, expect=1)
    mrenclave = bytes(range(32)).hex()
    clf(
        "server", "allow", "app", "--dir", owner, "--mrenclave", mrenclave, "--platform", "any", "--read", "**",
        "--max-runs", "1", "--max-bytes", "unlimited",
    )  # fmt: skip
    assert report(*arguments, "--policy", policy)["policy"]["enclave"] == "app"
    assert "known to the policy as app" in clf("quote", "verify", *arguments, "--policy", policy)
    policy.write_text(policy.read_text().replace("max_age_hours = 168", "max_age_hours = 1"))
    old = report(*arguments, "--policy", policy, expect=1)
    assert old["policy"]["step"] == "collateral's age"


def test_show_verifies_nothing(files: Path) -> None:
    """`show` reads any form, says that nothing is verified, and fails only where no quote is."""
    (files / "quote").write_bytes(base64.b64encode(td_scene({"rtmr3": b"\x44" * 48}).quote))
    found = json.loads(clf("quote", "show", files / "quote", "--json"))
    assert (found["verified"], found["form"], found["version"], found["tee"]) == (False, "base64", 4, "tdx")
    assert found["identity"]["rtmr3"] == "44" * 48
    text = clf("quote", "show", files / "quote")
    assert "NOT VERIFIED" in text
    assert "44" * 48 in text
    (files / "quote").write_text("no quote")
    assert "evidence_form" in clf("quote", "show", files / "quote", expect=1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--at", "yesterday"], 3),
        (["--at", "2025-07-04T12:00:00"], 3),
        (["--report-data", "00"], 3),
        (["--pccs", "ftp://nowhere"], 2),
        (["--policy", "/nowhere.toml"], 3),
        (["--simulation-root", "/nowhere.pem"], 3),
        (["--collateral", "/nowhere.json"], 3),
        (["--color"], 2),
    ],
)
def test_wrong_values(arguments: list[str], code: int, files: Path) -> None:
    """What was given and cannot be used is exit code 3, wrong usage 2; nothing is verified."""
    clf("quote", "verify", *lay(files, scene()), *arguments, expect=code)
    clf("quote", "verify", files / "missing", *lay(files, scene())[1:], expect=3)


def test_hostile_texts_do_not_drive_the_terminal(files: Path) -> None:
    """What a quote or certificate says is printed as text: no markup, no control characters."""
    case = scene()
    text = case.collateral.tcb_info.replace("UpToDate", "[red]\\u001b[2J", 1)
    arguments = lay(files, case.with_(collateral=dataclasses.replace(case.collateral, tcb_info=text)))
    shown = clf("quote", "verify", *arguments, expect=1)
    assert "\x1b" not in shown
    assert "[red]" in shown


def test_real_quotes_from_the_command_line(tmp_path: Path) -> None:
    """A real SGX and a real TDX quote verify with Intel's collateral at their time, and not today."""
    for tee in ("sgx", "tdx"):
        real = real_quotes(tee=tee, role="verifies")[0]
        at = datetime.fromtimestamp(real.entry["expect"]["now"], UTC).isoformat()
        bundle = real.path / str(real.entry["collateral"])
        file = real.path / str(real.entry["file"])
        found = report(file, "--collateral", bundle, "--at", at)
        assert found["claims"]["platform"]["tcb_status"] == real.entry["expect"]["status"]
        assert (found["trust"], found["simulated"]) == ("intel", False)
        assert report(file, "--collateral", bundle, expect=1)["steps"][8]["code"] == "collateral_expired"
