# SPDX-License-Identifier: Apache-2.0
"""tools/gen_cert.sh: an owner's certificates, without a question asked."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from clf.server import certificates
from clf.server.setup import load_certificate
from tests.deploy.scripts import script

GEN = "tools/gen_cert.sh"
ROOT_FILES = {"ca_cert.crt": 0o644, "ca_private_key.pem": 0o600}
CHILD_FILES = {"server_signed_cert.crt": 0o644, "server_private_key.pem": 0o600}


def test_root_and_child(tmp_path: Path) -> None:
    """Names of old, P-256, subject alternative names, private keys for their owner alone, nothing left behind."""
    script(GEN, "-r", cwd=tmp_path)
    script(GEN, "-c", "--host", "hospital.example", "--host", "192.0.2.7", "--host", "2001:db8::1", cwd=tmp_path)
    folder = tmp_path / "certs"
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == ROOT_FILES | CHILD_FILES
    ca = load_certificate(folder / "ca_cert.crt", "ca")
    child = load_certificate(folder / "server_signed_cert.crt", "child")
    child.verify_directly_issued_by(ca)
    for certificate in (ca, child):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert certificates.hosts_of(child) == ["hospital.example", "192.0.2.7", "2001:db8::1"]
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not child.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_nothing_is_overwritten_without_being_told(tmp_path: Path) -> None:
    """A second root would cut off every app that pins the first; --force is the owner's word for it."""
    script(GEN, "-r", "-c", "--out", "here", cwd=tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert set(before) == set(ROOT_FILES | CHILD_FILES)
    for flag in ("-r", "-c"):
        done = script(GEN, flag, "--out", "here", cwd=tmp_path, expect=1)
        assert "--force" in done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == before
    script(GEN, "-c", "--force", "--out", "here", cwd=tmp_path)
    after = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert {name for name in before if before[name] != after[name]} == set(CHILD_FILES)


def test_a_child_needs_a_root(tmp_path: Path) -> None:
    """Without a root there is nothing to sign with: said, and nothing made."""
    done = script(GEN, "-c", cwd=tmp_path, expect=1)
    assert "gen_cert.sh -r" in done.stderr
    assert not list((tmp_path / "certs").iterdir())
