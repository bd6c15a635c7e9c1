# SPDX-License-Identifier: Apache-2.0
"""The demo really runs, and every number that it states is in the owners' own records."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.demo.conftest import Played
from tests.demo.processes import assert_gone
from tests.world import CLF, run_clf

OWNERS = ["hospital-a", "hospital-b"]
APP = resources.files("clf.demo") / "app"


def test_all_held_and_only_the_object_is_on_standard_output(played: Played) -> None:
    """Exit code 0, and exactly one JSON object on one line; progress is elsewhere."""
    assert played.code == 0, played.errors
    assert played.output.count("\n") == 1
    assert isinstance(played.found, dict)
    assert played.errors.count("SIMULATION") >= 2
    assert re.search(r"(\d+) of \1 checks held", played.errors)


def test_the_object_has_exactly_the_promised_members(played: Played) -> None:
    """Programs rely on its form."""
    found = played.found
    assert list(found) == ["simulated", "seconds", "owners", "accuracy", "tampered", "audit"]
    assert found["simulated"] is True
    assert isinstance(found["seconds"], float)
    assert [owner["name"] for owner in found["owners"]] == OWNERS
    for owner in found["owners"]:
        assert list(owner) == ["name", "transfers", "bytes_released", "result"]
        assert list(owner["result"]) == ["path", "sha256"]
    assert list(found["accuracy"]) == ["joint", "alone"]
    assert list(found["accuracy"]["alone"]) == OWNERS
    assert [list(item) for item in found["tampered"]] == [["owner", "refused", "code"]] * 2
    assert [list(item) for item in found["audit"]] == [["owner", "entries", "verified"]] * 2


@pytest.mark.parametrize("number", [0, 1])
def test_releases_are_those_of_the_audit_log(played: Played, number: int) -> None:
    """Transfers and bytes are counted in the log on the disk, and the bytes are those of the owner's files."""
    owner = played.found["owners"][number]
    released = [entry for entry in played.audit(owner["name"]) if entry["event"] == "released"]
    assert owner["transfers"] == len(released) == 2
    assert [(entry["action"], entry["path"]) for entry in released] == [("read", "patients/"), ("write", "report.json")]
    files = (played.folder / owner["name"] / "data" / "patients").iterdir()
    assert owner["bytes_released"] == sum(path.stat().st_size for path in files)
    measured = run_clf("measure", played.folder / "app").strip()
    assert {entry["mrenclave"] for entry in released} == {measured}


@pytest.mark.parametrize("number", [0, 1])
def test_the_result_is_on_the_owners_disk(played: Played, number: int) -> None:
    """One digest: of the file, in the list of results, in the audit log and in the app's receipt."""
    owner = played.found["owners"][number]
    path = Path(owner["result"]["path"])
    assert path == played.folder / owner["name"] / "results" / "report.json"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert owner["result"]["sha256"] == digest
    committed = [entry for entry in played.audit(owner["name"]) if entry["event"] == "committed"]
    assert [entry["sha256"] for entry in committed] == [digest]
    listed = json.loads(run_clf("server", "results", played.folder / owner["name"], "--json"))["results"]
    assert [row["sha256"] for row in listed] == [digest]
    assert f"{owner['name']} stored report.json: SHA-256 {digest}" in played.log("run", "out").splitlines()


def _tables(played: Played, owner: str, name: str) -> tuple[Any, Any]:
    with (played.folder / owner / "data" / "patients" / f"{name}.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    return np.array([[float(value) for value in row[1:]] for row in rows]), np.array([row[0] for row in rows])


def test_the_accuracies_come_out_again(played: Played) -> None:
    """Trained outside of the enclave on the files of both, the models do as well as the report says."""
    judges = [_tables(played, owner, "held-out") for owner in OWNERS]

    def accuracy(owners: list[str]) -> float:
        tables = [_tables(played, owner, "training") for owner in owners]
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(np.concatenate([x for x, _ in tables]), np.concatenate([y for _, y in tables]))
        return float(model.score(np.concatenate([x for x, _ in judges]), np.concatenate([y for _, y in judges])))

    said = played.found["accuracy"]
    judged = sum(len(y) for _, y in judges)
    # One patient on the border may fall to the other side with another order of the same additions.
    assert said["joint"] == pytest.approx(accuracy(OWNERS), abs=1.5 / judged)
    for owner in OWNERS:
        assert said["alone"][owner] == pytest.approx(accuracy([owner]), abs=1.5 / judged)


def test_every_patient_is_at_exactly_one_hospital(played: Played) -> None:
    """All 569 records are there, none twice: nobody is both in training and held out."""
    rows = [
        line
        for owner in OWNERS
        for name in ("training", "held-out")
        for line in (played.folder / owner / "data" / "patients" / f"{name}.csv").read_text().splitlines()[1:]
    ]
    assert len(rows) == len(set(rows)) == 569


def test_the_changed_app_differs_in_one_byte(played: Played) -> None:
    """Everything else of it is the same."""
    apps = [played.folder / "app", played.folder / "changed-app"]
    files = [{path.relative_to(app): path.read_bytes() for path in app.rglob("*") if path.is_file()} for app in apps]
    assert files[0].keys() == files[1].keys()
    changed = [name for name, content in files[0].items() if content != files[1][name]]
    assert changed == [Path("app.py")]
    pairs = list(zip(files[0][changed[0]], files[1][changed[0]], strict=True))
    assert sum(old != new for old, new in pairs) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_each_owner_refused_the_changed_app_itself(played: Played, number: int) -> None:
    """The refusal is in this owner's own log, under the reference that the app was given by it."""
    said = played.found["tampered"][number]
    assert said == {"owner": OWNERS[number], "refused": True, "code": "not_authorised"}
    measured = run_clf("measure", played.folder / "changed-app").strip()
    entries = [entry for entry in played.audit(OWNERS[number]) if entry.get("mrenclave") == measured]
    assert [(entry["event"], entry["decision"], entry["code"]) for entry in entries] == [
        ("denied", "deny", "not_authorised")
    ]
    assert f"{OWNERS[number]} refused: not_authorised reference {entries[0]['reference']}: " in played.log(
        "run", "err", which=1
    )


@pytest.mark.parametrize("number", [0, 1])
def test_the_audit_logs_are_verified(played: Played, number: int) -> None:
    """As many entries as stated, complete to the server's stop, and whole."""
    said = played.found["audit"][number]
    entries = played.audit(OWNERS[number])
    assert said == {"owner": OWNERS[number], "entries": len(entries), "verified": True}
    assert entries[-1]["event"] == "stopped"
    report = json.loads(run_clf("audit", "verify", played.folder / OWNERS[number], "--json"))
    assert (report["holds"], report["entries"]) == (True, len(entries))


def test_the_owners_share_nothing(played: Played) -> None:
    """Each has its own CA, server key, identity and policy, and its server listened on its own port."""
    apart: dict[str, set[bytes]] = {}
    for owner in OWNERS:
        folder = played.folder / owner
        for name in ("identity.pem", "audit.pem", "ca.key", "tls/server.key", "tls/ca.crt", "challenge.json"):
            apart.setdefault(name, set()).add((folder / "keys" / name).read_bytes())
        config = tomllib.loads((folder / "clf_server.toml").read_text())
        apart.setdefault("listen", set()).add(config["server"]["listen"].encode())
        ca = x509.load_pem_x509_certificate((folder / "keys/tls/ca.crt").read_bytes())
        apart.setdefault("serial", set()).add(ca.serial_number.to_bytes(20, "big"))
    assert {name: len(values) for name, values in apart.items()} == dict.fromkeys(apart, 2)


def test_nothing_runs_on(played: Played) -> None:
    """No process of the demo is left; other tests may be looking into the folder with short commands."""
    assert_gone(str(played.folder), ignore=(" measure ", " server results ", " audit verify "))


def test_the_app_is_short(played: Played) -> None:
    """A newcomer reads it in one go, and copies it: what ran is what is shipped."""
    shipped = (APP / "app.py").read_bytes()
    assert (played.folder / "app" / "app.py").read_bytes() == shipped
    assert len(shipped.splitlines()) < 120


def test_the_template_of_clf_toml_is_valid(tmp_path: Path) -> None:
    """Copied with CAs beside it, it passes the check that `clf run` makes."""
    (tmp_path / "certs").mkdir()
    for name in ("app.py", "clf.toml"):
        (tmp_path / name).write_bytes((APP / name).read_bytes())
    for owner in OWNERS:
        (tmp_path / "certs" / f"{owner}.crt").write_text("a CA\n")
    assert json.loads(run_clf("run", tmp_path, "--check", "--json"))["ok"] is True


def test_without_scikit_learn_it_names_the_extra(tmp_path: Path) -> None:
    """A clear error before anything is started."""
    (tmp_path / "sklearn.py").write_text("raise ImportError('not installed')\n")
    done = subprocess.run(
        [*CLF, "demo", "--json"], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "pip install 'cross-language-framework[demo]'" in done.stderr


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    """--keep takes a new folder only."""
    (tmp_path / "mine").write_text("mine")
    done = subprocess.run([*CLF, "demo", "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
