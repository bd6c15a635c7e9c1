# SPDX-License-Identifier: Apache-2.0
"""`clf server init` makes an owner once, privately, and with certificates that strict readers accept."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from clf.cli.main import app
from clf.errors import ConfigError
from clf.server import certificates, durable, setup
from clf.server.config import Collateral, load
from clf.server.explain import check
from clf.server.keys import load_identity, load_keyring, new_keyring, read_named_key, rotate
from clf.server.policy_live import activate
from clf.server.rotation import renew_certificate
from clf.server.run import is_running, take_lock
from tests.privileges import modes_count
from tests.server.owner import NOW, make

DAY = 86_400


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_made_is_private_and_ready(tmp_path: Path) -> None:
    """Files are 0600 and folders 0700 whatever the umask, and the folder passes its own check."""
    before = os.umask(0)
    try:
        made = make(tmp_path / "owner")
    finally:
        os.umask(before)
    for path in [made.folder, *made.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    report = check(made.folder, NOW)
    assert (report.ok, report.problems, report.identity) == (True, [], made.thumbprint)
    assert made.thumbprint == load_identity(load(made.folder).identity_file).thumbprint
    assert len(made.thumbprint) == 43


def test_no_two_owners_share_a_key(tmp_path: Path) -> None:
    """Every key is fresh for each owner, and none of them serves two purposes."""
    files = [
        {name: data for name, data in tree(make(tmp_path / owner).folder).items() if name.endswith((".pem", ".key"))}
        for owner in ("a", "b")
    ]
    keys = [data for each in files for data in each.values()]
    assert len(keys) == len(set(keys)) == 8


@pytest.mark.parametrize("name", ["clf_server.toml", "keys", "results", "state", "keys/identity.pem"])
def test_nothing_is_ever_overwritten(tmp_path: Path, name: str) -> None:
    """Anything of an owner's that exists makes init refuse, and stays as it was; nothing is added beside it."""
    folder = tmp_path / "owner"
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        make(folder)
    assert tree(folder) == {name: b"mine"}


def test_a_link_that_leads_nowhere_counts_as_existing(tmp_path: Path) -> None:
    """A dangling symbolic link must not make init write somewhere else."""
    folder = tmp_path / "owner"
    folder.mkdir()
    (folder / "clf_server.toml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        make(folder)
    assert not (tmp_path / "elsewhere").exists()


def test_a_second_init_refuses(tmp_path: Path) -> None:
    """A second identity would be another owner to every app."""
    made = make(tmp_path / "owner")
    before = tree(made.folder)
    with pytest.raises(ConfigError):
        make(made.folder)
    assert tree(made.folder) == before


def test_data_that_an_owner_has_already_is_left_alone(tmp_path: Path) -> None:
    """An owner begins with data; it keeps its content and its mode."""
    data = tmp_path / "owner" / "data"
    data.mkdir(parents=True, mode=0o750)
    data.chmod(0o750)
    (data / "patients.csv").write_text("x")
    make(tmp_path / "owner")
    assert (data / "patients.csv").read_text() == "x"
    assert stat.S_IMODE(data.stat().st_mode) == 0o750


@pytest.mark.parametrize("number", range(9))
def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Whichever write fails, init takes back what it made, so that it can simply be run again."""
    real, calls = durable.write_private, iter(range(100))

    def failing(path: Path, data: bytes) -> None:
        if next(calls) == number:
            path.write_bytes(data[:10])
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(setup, "write_private", failing)
    with pytest.raises(ConfigError, match="No space left"):
        make(tmp_path / "deep" / "owner")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    make(tmp_path / "deep" / "owner")


@pytest.mark.parametrize("host", ["", "*", "*.example", "a b", "-a", "a..b", "1.2.3", "x" * 64, "fe80::1%eth0", "a/b"])
def test_only_hosts_get_a_certificate(tmp_path: Path, host: str) -> None:
    """A name that no certificate can carry is refused before anything is made."""
    with pytest.raises(ConfigError, match="host"):
        make(tmp_path / "owner", hosts=(host,))
    assert list(tmp_path.iterdir()) == []


def test_trust_is_said_and_never_both(tmp_path: Path) -> None:
    """Simulation needs its root, and Intel refuses one; a file that is no certificate is refused."""
    words = {
        "collateral": Collateral("pcs"),
        "hosts": ["localhost"],
        "listen": "[::1]:1",
        "admin": "[::1]:2",
        "now": NOW,
    }
    made = make(tmp_path / "other")
    for trust, root in (("simulation", None), ("intel", made.ca), ("simulation", made.folder / "clf_server.toml")):
        with pytest.raises(ConfigError):
            setup.init(tmp_path / "owner", trust=trust, simulation_root=root, **words)  # type: ignore[arg-type]
    assert not (tmp_path / "owner").exists()
    setup.init(tmp_path / "owner", trust="simulation", simulation_root=made.ca, **words)  # type: ignore[arg-type]
    config = load(tmp_path / "owner")
    assert (config.trust, config.policy.trust) == ("simulation", "simulation")
    assert config.simulation_root is not None
    assert config.simulation_root.read_bytes() == made.ca.read_bytes()
    report = check(tmp_path / "owner", NOW)
    assert report.ok
    assert "PROTECT NOTHING" in report.warnings[0].message
    assert "SIMULATED" in report.sentences[0]
    assert report.to_dict()["simulated"] is True


# --- certificates ----------------------------------------------------------------------------------


def handshake(folder: Path, host: str) -> str:
    """A TLS 1.3 handshake as a strict client makes it; returns the version."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "keys/tls/server.crt", folder / "keys/tls/server.key")
    client = ssl.create_default_context(cafile=folder / "keys/tls/ca.crt")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    near, far = socket.socketpair()

    def serve() -> None:
        # Where the client refuses, its side of the test says why.
        with far, contextlib.suppress(OSError):
            server.wrap_socket(far, server_side=True).close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with near, client.wrap_socket(near, server_hostname=host) as tls:
            return str(tls.version())
    finally:
        thread.join()


def test_a_strict_client_accepts_the_certificate_for_its_hosts_only(tmp_path: Path) -> None:
    """Python 3.13's strict verification passes for every host named, by name and address, and for no other."""
    made = make(tmp_path / "owner", hosts=("owner.example", "127.0.0.1", "::1"), now=time.time())
    for host in ("owner.example", "127.0.0.1", "::1"):
        assert handshake(made.folder, host) == "TLSv1.3"
    for host in ("other.example", "127.0.0.2"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(made.folder, host)


def test_an_expired_certificate_is_refused_and_reported(tmp_path: Path) -> None:
    """After a year clients refuse the certificate and the check says so; renew makes it good under the same CA."""
    now = time.time()
    made = make(tmp_path / "owner", now=now - 366 * DAY)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made.folder, "localhost")
    assert any("ended on" in finding.message for finding in check(made.folder, now).problems)
    ca, key = made.ca.read_bytes(), (made.folder / "keys/tls/server.key").read_bytes()
    renew_certificate(load(made.folder), [], lambda _event: None, now)
    assert handshake(made.folder, "localhost") == "TLSv1.3"
    assert (made.ca.read_bytes(), (made.folder / "keys/tls/server.key").read_bytes()) == (ca, key)
    assert check(made.folder, now).ok


def test_the_certificates_say_what_they_are_for(tmp_path: Path) -> None:
    """The CA signs certificates for ten years and nothing below it may; the server's serves for one year."""
    made = make(tmp_path / "owner", hosts=("owner.example", "192.0.2.7"))
    ca = x509.load_pem_x509_certificate(made.ca.read_bytes())
    server = x509.load_pem_x509_certificate((made.folder / "keys/tls/server.crt").read_bytes())
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificates.hosts_of(server) == ["owner.example", "192.0.2.7"]
    assert (ca.not_valid_after_utc - ca.not_valid_before_utc).days == 3650
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 365
    server.verify_directly_issued_by(ca)


# --- keys ------------------------------------------------------------------------------------------


def test_flaw_14_no_key_shows_itself(tmp_path: Path) -> None:
    """Original CLF, flaw 14: secrets were printed. Here neither repr nor an error nor the check's report holds one."""
    made = make(tmp_path / "owner")
    config = load(made.folder)
    ring = load_keyring(config.transfer_keyring)
    shown = repr(ring) + repr(load_identity(config.identity_file)) + str(check(made.folder, NOW).to_dict())
    for line in (tree(made.folder)["keys/identity.pem"] + tree(made.folder)["keys/transfer.json"]).decode().split("\n"):
        word = line.strip().split('"')[-2] if '"key"' in line else line
        assert "BEGIN" in line or len(word) < 30 or word not in shown
    assert str(ring.current_key) not in shown
    text = config.transfer_keyring.read_text()
    config.transfer_keyring.write_text(text.replace('"key": "', '"key": "*'))
    with pytest.raises(ConfigError) as caught:
        load_keyring(config.transfer_keyring)
    secret = text.split('"key": "')[1].split('"')[0]
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    """A key file open to others on the machine stops the server, and the remedy is the command that closes it."""
    made = make(tmp_path / "owner")
    path = load(made.folder).identity_file
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load_identity(path)
    assert f"chmod 600 {path}" in caught.value.remedy
    assert not check(made.folder, NOW).ok


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"current": "a", "keys": {}}',
        '{"current": "b", "keys": {"a": {"created": 1, "key": "%s"}}}',
        '{"current": "a", "keys": {"a": {"created": 1, "key": "%s="}}}',
        '{"current": "a", "keys": {"a": {"created": 1, "key": "AAAA"}}}',
        '{"current": "a", "keys": {"a": {"created": true, "key": "%s"}}}',
        '{"current": "a", "keys": {"a": {"created": 1, "key": "%s", "x": 1}}}',
        '{"current": "A", "keys": {"A": {"created": 1, "key": "%s"}}}',
        '{"current": "a", "keys": {"a": {"created": 1, "key": "%s"}}, "x": 1}',
        '{"current": "a", "keys": {"a": {"created": 1, "key": "%s"}, "a": {"created": 1, "key": "%s"}}}',
    ],
)
def test_a_keyring_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    """A keyring is read strictly: a damaged one must not yield a weaker key."""
    path = tmp_path / "transfer.json"
    path.write_text(text.replace("%s", "A" * 43))
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        load_keyring(path)


def test_rotation_keeps_what_is_still_needed(tmp_path: Path) -> None:
    """A former key stays until its successor has been in use for as long as anything may live, then goes."""
    first = new_keyring(NOW)
    second = rotate(first, NOW + 10, keep_seconds=100)
    assert second.current != first.current
    assert second.keys[first.current] == first.current_key
    assert first.current in rotate(second, NOW + 110, keep_seconds=100).keys
    third = rotate(second, NOW + 111, keep_seconds=100)
    assert first.current not in third.keys
    assert second.current in third.keys
    path = tmp_path / "ring.json"
    durable.write_private(path, third.to_json().encode())
    assert load_keyring(path) == third


def test_what_is_no_file_is_no_key(tmp_path: Path) -> None:
    """A folder, a FIFO or an empty file in a key's place is refused without waiting for anybody."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir()
    durable.write_private(tmp_path / "empty", b"")
    durable.write_private(tmp_path / "long", bytes(5000))
    for name in ("fifo", "folder", "empty", "long", "absent"):
        with pytest.raises(ConfigError):
            read_named_key(tmp_path / name, "model")


# --- check -----------------------------------------------------------------------------------------


def test_check_finds_what_would_keep_a_server_from_running(tmp_path: Path) -> None:
    """Missing keys, foreign certificates, open folders and broken files are problems, each with its remedy."""
    breaks = {
        "keys/audit.pem": "audit key",
        "keys/challenge.json": "challenge",
        "keys/tls/server.key": "tls.key",
        "keys/tls/server.crt": "server.crt",
    }
    for number, (name, word) in enumerate(breaks.items()):
        made = make(tmp_path / str(number))
        (made.folder / name).unlink()
        assert any(word in finding.message for finding in check(made.folder, NOW).problems), name
    made = make(tmp_path / "pair")
    other = make(tmp_path / "other")
    (made.folder / "keys/tls/server.crt").write_bytes((other.folder / "keys/tls/server.crt").read_bytes())
    assert any("do not belong together" in finding.message for finding in check(made.folder, NOW).problems)
    (other.folder / "keys").chmod(0o750)
    assert any(finding.message.startswith("keys:") for finding in check(other.folder, NOW).problems)
    assert not check(tmp_path, NOW).ok


def test_check_warns_before_the_certificate_ends(tmp_path: Path) -> None:
    """A month before the end there is a warning, and the server may still run."""
    made = make(tmp_path / "owner")
    soon = check(made.folder, NOW + 340 * DAY)
    assert soon.ok
    assert any("ends on" in finding.message for finding in soon.warnings)
    assert not any("ends on" in finding.message for finding in check(made.folder, NOW).warnings)


def test_the_command_line_refuses_what_is_not_said(tmp_path: Path) -> None:
    """`clf server init` without trust or collateral makes nothing, names what to add, and exits with 3."""
    command = [sys.executable, "-m", "clf.cli.main", "server", "init", str(tmp_path / "owner")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "--trust intel" in done.stderr
    assert "--pccs URL" in done.stderr
    assert list(tmp_path.iterdir()) == []
    done = subprocess.run(
        [*command, "--trust", "intel", "--pcs", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert load_identity(tmp_path / "owner/keys/identity.pem").thumbprint in done.stdout


def test_root_does_not_write_where_another_user_serves(tmp_path: Path) -> None:
    """A key made by root could not be read by the server's user: refused, with the user to be."""
    own, nobody = tmp_path.stat().st_uid, 65534
    setup.check_user(tmp_path, own)
    setup.check_user(tmp_path / "absent", 0)
    if own == 0:
        os.chown(tmp_path, nobody, nobody)
    with pytest.raises(ConfigError) as refused:
        setup.check_user(tmp_path, 0)
    assert refused.value.code == "wrong_user"
    assert refused.value.remedy.startswith("sudo -u ")


@pytest.mark.parametrize(
    "words",
    [
        "server reload {folder}",
        "server allow app --dir {folder} --mrenclave "
        + "ab" * 32
        + " --platform any --read ** --max-runs 1 --max-bytes 9",
        "server revoke app --dir {folder}",
        "server add-key model --dir {folder}",
        "server renew --dir {folder}",
        "server rotate challenge {folder}",
        "server backup {folder} {folder}-backup",
        "server restore {folder}-backup {folder}",
        "server restore-keys {folder}-keys {folder} --no-encryption",
        "server recount {folder}",
        "audit archive {folder} --head {folder}-head --out {folder}-out",
        "audit prune {folder} --head {folder}-head",
    ],
)
def test_no_command_of_roots_makes_a_file_that_the_server_could_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """A policy, log or key of root in another user's folder would stop its server: refused, nothing is written."""
    folder = make(tmp_path / "owner").folder
    before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))}
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    result = CliRunner().invoke(app, words.format(folder=folder).split())
    assert isinstance(result.exception, ConfigError), result.output
    assert result.exception.code == "wrong_user"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))} == before


def test_a_look_at_the_status_keeps_no_server_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor holds the folder's lock for a moment; exit code 3 would keep a service manager from trying again."""
    config = load(make(tmp_path / "owner").folder)
    held = [take_lock(config)]
    monkeypatch.setattr(time, "sleep", lambda _seconds: os.close(held.pop()))
    os.close(take_lock(config))
    assert not held
    server = take_lock(config)
    assert is_running(config)
    os.close(server)
    assert not is_running(config)


def test_a_state_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Starting, reloading and looking name the folder and say what to do, with no traceback."""
    config = load(make(tmp_path / "owner").folder)
    config.state.chmod(0o500)
    try:
        with modes_count():
            for act in (lambda: take_lock(config), lambda: activate(config, b""), lambda: is_running(config)):
                with pytest.raises(ConfigError) as refused:
                    act()
                assert refused.value.field == "server.state"
                assert str(config.state) in refused.value.message
                assert "write to its state folder" in refused.value.remedy
    finally:
        config.state.chmod(0o700)
