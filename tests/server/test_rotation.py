# SPDX-License-Identifier: Apache-2.0
"""Rotations, step by step: in order, in the log, and never left half done by a crash."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography import x509

from clf import limits
from clf.errors import ConfigError
from clf.server.audit_verify import read_entries
from clf.server.config import ServerConfig, load
from clf.server.due import recorder, rotate_due
from clf.server.explain import check
from clf.server.keys import load_identity, load_keyring, load_private_key
from clf.server.keys_live import LiveKeys
from clf.server.rotation import Stage, change_pinned, paths_of, renew_certificate, rotate_keyring, standing
from clf.server.state import StateStore
from clf.server.status import Item, status
from tests.privileges import modes_count
from tests.server.killing import killed_everywhere
from tests.server.owner import make

DAY = 86_400.0
Pinned = Literal["identity", "ca"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An owner's folder, made now."""
    return make(tmp_path / "owner", now=time.time()).folder


def step(folder: Path, what: Pinned, stage: Stage, **options: Any) -> str:
    """One step, as the command makes it."""
    config = load(folder)
    state = StateStore.open(config.state / "state.db", config.trust)
    try:
        return change_pinned(config, what, stage, recorder(config, time.time), state, time.time(), **options)
    finally:
        state.close()


def item(folder: Path, name: str, now: float | None = None) -> Item:
    """One line of the status."""
    found = status(load(folder), False, now or time.time())
    return next(item for item in found.items if item.name == name)


def said(folder: Path) -> list[tuple[str, str]]:
    """(what, stage) of each rotation in the log."""
    entries = [entry.fields for entry, _line in read_entries(folder / "state" / "audit")]
    return [(entry["key"], entry["stage"]) for entry in entries if entry["event"] == "rotated"]


def whole(config: ServerConfig) -> None:
    """A server can start on these keys, and its certificate holds under the CA, or the former or next one."""
    LiveKeys(config)
    server = x509.load_pem_x509_certificate(config.tls_certificate.read_bytes())
    assert server.public_key() == load_private_key(config.tls_key, "tls.key").public_key()
    tls = config.keys / "tls"
    cas = [x509.load_pem_x509_certificate(path.read_bytes()) for path in tls.glob("ca*.crt")]
    assert any(_issued(server, ca) for ca in cas)


def _issued(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:
        return False
    return True


def test_an_identity_is_rotated_in_three_steps(folder: Path) -> None:
    """prepare makes the next one, activate swaps, finish forgets: identities, stages and the log agree throughout."""
    config = load(folder)
    first = load_identity(config.identity_file).thumbprint
    second = step(folder, "identity", "prepare")
    assert second != first
    assert load_identity(config.identity_file).thumbprint == first
    assert standing(config, "identity").stage == "prepared"
    assert step(folder, "identity", "activate") == second
    keys = LiveKeys(config)
    assert keys.identity().thumbprint == second
    assert set(keys.identities()) == {first, second}
    assert step(folder, "identity", "finish") == first
    assert set(keys.identities()) == {second}, "seen without a restart"
    assert [path.name for path in config.keys.glob("identity*")] == ["identity.pem"]
    assert said(folder) == [("identity", "prepare"), ("identity", "activate"), ("identity", "finish")]


def test_a_ca_is_rotated_in_three_steps(folder: Path) -> None:
    """The server's certificate moves to the next CA when it is activated; key, hosts and the former CA stay."""
    config = load(folder)
    ca = config.keys / "tls" / "ca.crt"
    before, key = ca.read_bytes(), config.tls_key.read_bytes()
    step(folder, "ca", "prepare")
    pinned = (config.keys / "tls" / "ca.next.crt").read_bytes()
    assert ca.read_bytes() == before
    step(folder, "ca", "activate")
    assert ca.read_bytes() == pinned
    assert (config.keys / "tls" / "ca.former.crt").read_bytes() == before
    server, new = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (config.tls_certificate, ca))
    server.verify_directly_issued_by(new)
    assert new.subject != x509.load_pem_x509_certificate(before).subject
    assert config.tls_key.read_bytes() == key
    assert check(folder, time.time()).ok
    step(folder, "ca", "finish")
    assert sorted(path.name for path in config.keys.rglob("ca*")) == ["ca.crt", "ca.key"]


ORDER: list[tuple[tuple[Stage, ...], Stage, str]] = [
    ((), "activate", "--prepare"),
    ((), "finish", "--prepare"),
    ((), "cancel", "--prepare"),
    (("prepare",), "prepare", "--activate"),
    (("prepare",), "finish", "--activate"),
    (("prepare", "activate"), "prepare", "--finish"),
    (("prepare", "activate"), "activate", "--finish"),
    (("prepare", "activate"), "cancel", "--finish"),
    (("prepare", "cancel"), "activate", "--prepare"),
]


@pytest.mark.parametrize("what", ["identity", "ca"])
@pytest.mark.parametrize(("done", "wrong", "remedy"), ORDER, ids=lambda value: "-".join(value) or "none")
def test_out_of_order_is_refused_with_what_comes_next(
    folder: Path, what: Pinned, done: tuple[Stage, ...], wrong: Stage, remedy: str
) -> None:
    """A step at the wrong time changes nothing, writes nothing, and names the step that comes next."""
    for stage in done:
        step(folder, what, stage)
    files = {path: path.read_bytes() for path in (folder / "keys").rglob("*") if path.is_file()}
    entries = said(folder) if done else []
    with pytest.raises(ConfigError) as refused:
        step(folder, what, wrong)
    assert remedy in refused.value.remedy
    assert {path: path.read_bytes() for path in (folder / "keys").rglob("*") if path.is_file()} == files | {
        folder / "keys" / ".rotation.lock": b""
    }
    assert (said(folder) if done else []) == entries


CODE = """
import time
from clf.server.config import load
from clf.server.rotation import change_pinned, renew_certificate, rotate_keyring
from clf.server.state import StateStore
from clf.server.due import recorder
config = load(folder)
state = StateStore.open(config.state / "state.db", config.trust)
record = recorder(config, time.time)
"""


@pytest.mark.parametrize("what", ["identity", "ca"])
@pytest.mark.parametrize("last", ["prepare", "activate", "finish", "cancel"])
def test_killed_before_any_file_operation_it_can_be_given_again(
    folder: Path, tmp_path: Path, what: Pinned, last: Stage
) -> None:
    """kill -9 anywhere: a server starts on what is left, the status names the next step, and that step finishes it."""
    done: tuple[Stage, ...] = {"prepare": (), "activate": ("prepare",), "cancel": ("prepare",)}.get(
        last, ("prepare", "activate")
    )  # type: ignore[assignment]
    for stage in done:
        step(folder, what, stage)
    code = CODE + f"change_pinned(config, {what!r}, {last!r}, record, state, time.time())\n"
    # Beside these, the state's and the log's own operations: they are tested where they are made.
    killed = killed_everywhere(folder, tmp_path / "work", code, least=4)
    stages = []
    for copy in killed:
        config = load(copy)
        whole(config)
        assert check(copy, time.time()).ok
        found = standing(config, what)
        stages.append(found.stage)
        if found.stage in ("preparing", "activating"):
            assert item(copy, what).due
            assert found.next_step
            assert any(found.next_step in finding.remedy for finding in check(copy, time.time()).warnings)
            assert found.next_step in item(copy, what).next
        # What was wanted can be had, by giving the command again where it had not come through.
        wanted = {"prepare": "prepared", "activate": "active", "finish": "none", "cancel": "none"}[last]
        if found.stage != wanted:
            step(copy, what, last)
        assert standing(config, what).stage == wanted
        whole(config)
        if wanted == "none":
            assert not paths_of(config, what).former.exists()
    assert stages[0] != stages[-1], "the command did something"


@pytest.mark.parametrize("what", ["challenge", "transfer", "certificate"])
def test_one_step_rotations_are_all_or_nothing(folder: Path, tmp_path: Path, what: str) -> None:
    """kill -9 anywhere: the keyring or certificate is the old one or the new one, whole; leftovers go the next time."""
    call = (
        "renew_certificate(config, [], record, time.time())"
        if what == "certificate"
        else f"rotate_keyring(config, {what!r}, record, time.time())"
    )
    path = folder / ("keys/tls/server.crt" if what == "certificate" else f"keys/{what}.json")
    before = path.read_bytes()
    killed = killed_everywhere(folder, tmp_path / "work", CODE + call, least=3)
    contents = []
    for copy in killed:
        whole(load(copy))
        contents.append((copy / path.relative_to(folder)).read_bytes())
        if what != "certificate":
            rotate_keyring(load(copy), what, lambda _event: None, time.time())  # type: ignore[arg-type]
            assert not list((copy / "keys").glob(f".{what}*"))
    assert contents[0] == before != contents[-1]


def test_former_transfer_keys_stay_as_long_as_what_they_made(folder: Path) -> None:
    """A key goes only once its successor was in use for the longest life of a transfer; too many are refused."""
    config, now = load(folder), time.time()
    keep = config.limits.transfer_absolute_seconds + limits.STATE_KEPT_SECONDS
    first = load_keyring(config.transfer_keyring).current
    second = rotate_keyring(config, "transfer", lambda _event: None, now)
    assert set(load_keyring(config.transfer_keyring).keys) == {first, second}
    rotate_keyring(config, "transfer", lambda _event: None, now + keep - 5)
    assert first in load_keyring(config.transfer_keyring).keys
    rotate_keyring(config, "transfer", lambda _event: None, now + keep + 5)
    ring = load_keyring(config.transfer_keyring)
    assert first not in ring.keys
    assert second in ring.keys
    for _ in range(limits.KEYRING_KEYS_COUNT - len(ring.keys)):
        rotate_keyring(config, "transfer", lambda _event: None, now + keep + 6)
    before = config.transfer_keyring.read_bytes()
    with pytest.raises(ConfigError, match="keys that something alive was made with"):
        rotate_keyring(config, "transfer", lambda _event: None, now + keep + 7)
    assert config.transfer_keyring.read_bytes() == before


def test_what_is_due_is_rotated_by_the_server_itself(folder: Path) -> None:
    """By the given clock: nothing is due when new; challenge keys after 7 days, transfer keys after 30, then TLS."""
    config, now = load(folder), time.time()
    record = recorder(config, time.time)
    assert rotate_due(config, record, now) == []
    assert rotate_due(config, record, now + 7 * DAY + 5) == ["challenge"]
    assert rotate_due(config, record, now + 30 * DAY + 5) == ["challenge", "transfer"]
    assert rotate_due(config, record, now + 336 * DAY)[-1] == "certificate"
    assert rotate_due(config, record, now + 336 * DAY + 60) == []
    assert said(folder)[-1] == ("certificate", "rotate")
    text = config.file.read_text()
    config.file.write_text(
        text.replace("# challenge_days = 7", "challenge_days = 0")
        .replace("# transfer_days = 30", "transfer_days = 0")
        .replace("# certificate_days_left = 30", "certificate_days_left = 0")
    )
    assert rotate_due(load(folder), record, now + 3000 * DAY) == []


def test_a_certificate_is_not_renewed_for_ever(folder: Path) -> None:
    """What would make a fresh certificate due at once is refused; with the most that is allowed, one lasts a while."""
    config, now = load(folder), time.time()
    text = config.file.read_text()
    for days in (365, 400):
        config.file.write_text(text.replace("# certificate_days_left = 30", f"certificate_days_left = {days}"))
        with pytest.raises(ConfigError) as refused:
            load(folder)
        assert refused.value.field == "server.rotation.certificate_days_left"
        assert str(days) in refused.value.message
    most = f"certificate_days_left = {limits.RENEW_CERTIFICATE_MOST_DAYS_LEFT}"
    config.file.write_text(text.replace("# certificate_days_left = 30", most))
    config = load(folder)
    record = recorder(config, time.time)
    renew_certificate(config, [], record, now)
    assert rotate_due(config, record, now + 6 * DAY) == []


def test_keys_that_the_server_cannot_write_stop_no_server(folder: Path) -> None:
    """On a read-only keys folder what is due is put off, with a remedy in the log; a command says what is wrong."""
    config, now = load(folder), time.time()
    record = recorder(config, time.time)
    config.keys.chmod(0o500)
    try:
        with modes_count():
            assert rotate_due(config, record, now + 400 * DAY) == []
            for rotation in (
                lambda: rotate_keyring(config, "challenge", record, now),
                lambda: renew_certificate(config, [], record, now),
            ):
                with pytest.raises(ConfigError, match=r"\.rotation\.lock") as refused:
                    rotation()
                assert "keys folder" in refused.value.remedy
    finally:
        config.keys.chmod(0o700)
    assert rotate_due(config, record, now + 400 * DAY) == ["challenge", "transfer", "certificate"]


def test_the_status_says_what_is_due(folder: Path) -> None:
    """Everything is fresh but the backup, which was never made; ten years later all is due and has a command."""
    now = time.time()
    assert status(load(folder), False, now).due == ["backup"]
    later = status(load(folder), False, now + 9.5 * 365 * DAY)
    assert set(later.due) == {"identity", "ca", "certificate", "challenge", "transfer", "backup"}
    assert all(item.next.startswith("clf ") for item in later.items if item.due)
    (folder / "keys" / "challenge.json").write_text("{}")
    broken = item(folder, "challenge", now)
    assert broken.due
    assert "current" in broken.state
