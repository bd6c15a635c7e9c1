# SPDX-License-Identifier: Apache-2.0
"""Whom an app talks to is decided by what is measured, never by what the host passes."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import clf
from clf.attest import Attester, Evidence, detect
from clf.attest.simulated import SimulatedAttester
from clf.errors import AttesterError, ConfigError
from tests.client.owner_double import FixedAttester, OwnerDouble

PIN, NEXT = "A" * 43, "B" * 42 + "A"


@pytest.fixture
def app(tmp_path: Path, double: OwnerDouble, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app with two owners, started as by `clf run`."""
    (tmp_path / "a.crt").write_bytes(double.ca_pem)
    (tmp_path / "clf.toml").write_text(
        f"""
[app]
name = "app"
command = ["python3", "app.py"]
files = ["app.py"]

[owner.a]
url = "{double.url}"
ca = "a.crt"
identity = ["{double.audience}", "{NEXT}"]

[owner.b]
url = "https://b.example"
ca = "a.crt"
identity = ["{PIN}"]
"""
    )
    monkeypatch.setenv("CLF_APP", str(tmp_path / "clf.toml"))
    return tmp_path


def connect(*args: Any, **options: Any) -> clf.Owner:
    """clf.connect with an attester."""
    return clf.connect(*args, **({"attester": FixedAttester()} | options))


def test_name_and_url_select_a_listed_owner(app: Path, double: OwnerDouble) -> None:
    """A name, a URL, and a URL without the default port select what clf.toml lists, and it is believed."""
    double.files["f"] = b"x"
    assert connect("a").read_bytes("f") == b"x"
    assert connect(double.url + "/").name == "a"
    assert connect("https://B.example:4433").name == "b"
    assert connect("a").identities == (double.audience, NEXT)


@pytest.mark.parametrize("owner", ["c", "https://b.example:4434", "https://evil.example", "http://b.example", ""])
def test_unlisted_owners_are_refused(app: Path, owner: str) -> None:
    """Flaw 15 of the original: the host could send the app to a server of its own. An unlisted owner is refused."""
    with pytest.raises(ConfigError):
        connect(owner)


def test_unlisted_owner_even_with_ca_and_identity(app: Path, double: OwnerDouble) -> None:
    """Passing a CA and an identity does not make an unlisted owner acceptable."""
    with pytest.raises(ConfigError) as caught:
        connect("https://evil.example", ca=double.ca_pem, identity=double.audience)
    assert caught.value.code == "owner_unlisted"


def test_which_owner(app: Path) -> None:
    """With two owners one must be named; with one it need not."""
    with pytest.raises(ConfigError, match="which owner"):
        connect()
    text = (app / "clf.toml").read_text()
    (app / "clf.toml").write_text(text[: text.index("[owner.b]")])
    assert connect().name == "a"


def test_ca_must_be_the_measured_one(app: Path, double: OwnerDouble, tmp_path: Path) -> None:
    """The same CA may be passed, from any place; another is refused."""
    copy = tmp_path / "copy.pem"
    copy.write_bytes(double.ca_pem)
    connect("a", ca=copy)
    connect("a", ca=double.ca_pem)
    with OwnerDouble() as other, pytest.raises(ConfigError) as caught:
        connect("a", ca=other.ca_pem)
    assert caught.value.field == "ca"


def test_identity_can_only_be_narrowed(app: Path, double: OwnerDouble) -> None:
    """Of the listed identities some may be chosen; others are refused."""
    assert connect("a", identity=double.audience).identities == (double.audience,)
    with pytest.raises(ConfigError) as caught:
        connect("a", identity=[double.audience, PIN])
    assert caught.value.field == "identity"


def test_another_clf_toml_is_refused(app: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """app= names no other file than the measured one."""
    other = tmp_path_factory.mktemp("other")
    (other / "clf.toml").write_text((app / "clf.toml").read_text().replace("b.example", "evil.example"))
    (other / "a.crt").write_bytes((app / "a.crt").read_bytes())
    with pytest.raises(ConfigError) as caught:
        connect("https://evil.example", app=other)
    assert caught.value.field == "app"
    assert connect("b", app=app).name == "b"


def test_without_clf_toml_everything_is_explicit(double: OwnerDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of `clf run` nothing is assumed: URL, CA and identity are all given, or nothing is connected."""
    monkeypatch.delenv("CLF_APP", raising=False)
    double.files["f"] = b"x"
    assert connect(double.url, ca=double.ca_pem, identity=double.audience).read_bytes("f") == b"x"
    cases: list[dict[str, Any]] = [
        {"ca": None},
        {"identity": None},
        {"ca": b""},
        {"identity": []},
        {"identity": "short"},
    ]
    for missing in cases:
        with pytest.raises(ConfigError) as caught:
            connect(double.url, **({"ca": double.ca_pem, "identity": double.audience} | missing))
        assert caught.value.field == next(iter(missing))
    with pytest.raises(ConfigError):
        connect(ca=double.ca_pem, identity=double.audience)


def test_no_evidence_no_connection(double: OwnerDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a source of evidence hears so at once, not from the owner."""
    monkeypatch.delenv("CLF_APP", raising=False)
    monkeypatch.delenv("CLF_SIMULATOR_QUOTE", raising=False)
    with pytest.raises(AttesterError, match="no source of evidence"):
        clf.connect(double.url, ca=double.ca_pem, identity=double.audience)


def serve_quotes(path: Path, answers: list[bytes]) -> threading.Thread:
    """A platform's socket that gives each of these answers once; the thread ends with them."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        with listening:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    asked = b""
                    while piece := connection.recv(1000):
                        asked += piece
                    connection.sendall(answer.replace(b"ASKED", asked))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_simulated_attester(tmp_path: Path) -> None:
    """The simulated platform is asked with exactly the 64 bytes, and what it says is taken as it is."""
    path = tmp_path / "quote.sock"
    thread = serve_quotes(path, [b"<ASKED>", b"", b"x" * 20_000])
    attester = detect({"CLF_SIMULATOR_QUOTE": str(path)})
    assert isinstance(attester, SimulatedAttester)
    assert isinstance(attester, Attester)
    assert attester.quote(b"7" * 64) == Evidence("sgx-dcap", b"<" + b"7" * 64 + b">")
    with pytest.raises(AttesterError, match="refused"):
        attester.quote(bytes(64))
    with pytest.raises(AttesterError, match="owners take"):
        attester.quote(bytes(64))
    thread.join()
    with pytest.raises(AttesterError, match="does not answer"):
        attester.quote(bytes(64))
    for size in (0, 63, 65):
        with pytest.raises(AttesterError, match="must be 64"):
            attester.quote(bytes(size))


def test_public_names() -> None:
    """Everything that clf promises is there, and nothing else answers."""
    for name in clf.__all__:
        assert getattr(clf, name) is not None
    with pytest.raises(AttributeError):
        _ = clf.nothing
