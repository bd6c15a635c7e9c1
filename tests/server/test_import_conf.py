# SPDX-License-Identifier: Apache-2.0
"""`clf server import-conf`: the first CLF's configuration, without what it overlooked."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf.errors import ClfError, ConfigError
from clf.server.config import Collateral, load
from clf.server.import_conf import COMMITTED_SECRET, import_conf, parse_conf
from tests.deploy.scripts import script
from tests.world import MRENCLAVE, OwnerProcess, World, free_port, run_clf, running, world

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
SIGNER = "779d1dd9" + "ab" * 28
NOW = 1_790_000_000.0

SHIPPED = f"""\
# remote attestation
MRSigner={SIGNER}
MREnclave=
isv_prod_id=0
isv_svn=0

secret={SECRET}
port=4433
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    """A clf_server.conf."""
    path = tmp_path / "clf_server.conf"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


def convert(path: Path, folder: Path, *, delegates_to_signer: bool = False, new_secret: bool = False) -> dict[str, str]:
    """Import it with Intel's root; the table as before: now."""
    done = import_conf(
        path, folder, trust="intel", collateral=Collateral("pcs"), simulation_root=None, hosts=["h.example"],
        delegates_to_signer=delegates_to_signer, new_secret=new_secret, now=NOW,
    )  # fmt: skip
    return {row.name: row.now for row in done.rows}


def test_nothing_empty_becomes_any(tmp_path: Path) -> None:
    """Flaw 11: an empty MRENCLAVE, an SVN of 0 and an MRSIGNER alone accept nobody in the new policy."""
    rows = convert(write(tmp_path, SHIPPED), tmp_path / "owner")
    config = load(tmp_path / "owner")
    assert config.policy.enclaves == ()
    assert config.policy.grants == ()
    assert "nobody" in rows["MREnclave"]
    assert "not imported" in rows["MRSigner"]
    assert config.listen.port == 4433


def test_an_mrenclave_is_taken_and_nothing_is_granted(tmp_path: Path) -> None:
    """What identifies the app is imported exactly; files, runs and bytes wait for the owner's word."""
    convert(write(tmp_path, SHIPPED.replace("MREnclave=", "MREnclave=" + "AB" * 32)), tmp_path / "owner")
    (enclave,) = load(tmp_path / "owner").policy.enclaves
    assert enclave.sgx is not None
    assert enclave.sgx.mrenclave == (b"\xab" * 32,)
    assert not enclave.sgx.mrsigner
    assert load(tmp_path / "owner").policy.grants == ()


def test_a_signer_only_where_it_is_said(tmp_path: Path) -> None:
    """A signer is accepted on demand, and then with its exact product and an SVN that is at least the old one."""
    text = SHIPPED.replace("isv_prod_id=0", "isv_prod_id=7").replace("isv_svn=0", "isv_svn=3")
    convert(write(tmp_path, text), tmp_path / "owner", delegates_to_signer=True)
    (enclave,) = load(tmp_path / "owner").policy.enclaves
    assert enclave.sgx is not None
    assert (enclave.sgx.mrsigner, enclave.sgx.product_id, enclave.sgx.min_svn) == ((bytes.fromhex(SIGNER),), 7, 3)


def test_the_secret_is_a_named_key(tmp_path: Path) -> None:
    """The old clients' key is the same 32 characters, in a file that only the owner reads, granted to nobody."""
    convert(write(tmp_path, SHIPPED), tmp_path / "owner")
    path = tmp_path / "owner/keys/named/secret.key"
    assert path.read_text() == SECRET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    convert(write(tmp_path, SHIPPED), tmp_path / "other", new_secret=True)
    fresh = (tmp_path / "other/keys/named/secret.key").read_bytes()
    assert len(fresh) == 32
    assert fresh != SECRET.encode()


WRONG: dict[str, tuple[str | bytes, str, int]] = {
    # what was written: the line, the field, its number
    "a key nobody knows": ("MREnclav=" + "a" * 64, "MREnclav", 1),
    "case of a key": ("mrsigner=" + SIGNER, "mrsigner", 1),
    "blanks before the equals sign": (f"MRSigner ={SIGNER}", "MRSigner", 1),
    "a blank before the key": (f" MRSigner={SIGNER}", "MRSigner", 1),
    "a blank before the value": (f"MRSigner= {SIGNER}", "MRSigner", 1),
    "a comment after the value": ("port=4433 # TLS", "port", 1),
    "no equals sign": ("MRSigner " + SIGNER, "", 1),
    "twice": (f"port=4433\nport=4434\nsecret={SECRET}", "port", 2),
    "a measurement that is too short": ("MREnclave=" + "ab" * 31, "MREnclave", 1),
    "a measurement that is too long": ("MREnclave=" + "ab" * 33, "MREnclave", 1),
    "a digit that is none": ("MREnclave=" + "ab" * 31 + "0x", "MREnclave", 1),
    "a measurement in quotes": ('MREnclave="' + "ab" * 31 + '"', "MREnclave", 1),
    "a measurement with 00 in front": ("MRSigner=00" + "ab" * 31, "MRSigner", 1),
    "any": ("MREnclave=any", "MREnclave", 1),
    "a number with letters": ("isv_svn=2a", "isv_svn", 1),
    "a negative number": ("isv_prod_id=-1", "isv_prod_id", 1),
    "a number beyond int16": ("isv_svn=40000", "isv_svn", 1),
    "a hexadecimal number": ("isv_svn=0x10", "isv_svn", 1),
    "a port beyond": ("port=65536", "port", 1),
    "an empty port": ("port=", "port", 1),
    "port 0": ("port=0", "port", 1),
    "a secret of 64 digits": ("secret=" + SECRET * 2, "secret", 1),
    "a short secret": ("secret=" + SECRET[:-1], "secret", 1),
    "no secret": ("port=4433", "secret", 0),
    "an empty secret": ("secret=", "secret", 1),
    "the committed secret": ("secret=" + COMMITTED_SECRET, "secret", 1),
    "the committed secret in capitals": ("secret=" + COMMITTED_SECRET.upper(), "secret", 1),
    "a certificate that is not there": (f"secret={SECRET}\nserver_cert_path=certs/none.crt", "server_cert_path", 2),
    "an end of line as on Windows": (f"MRSigner={SIGNER}\r\n".encode(), "", 1),
    "a byte order mark": (b"\xef\xbb\xbfport=4433", "", 1),
    "bytes that are no text": (b"port=4433\nMRSigner=\xff\xfe", "", 2),
    "a NUL": (b"port=44\x0033", "port", 1),
    "a line longer than the old buffer": ("MRSigner=" + "a" * 1100, "", 1),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_old_server_ignored_or_misread_is_an_error(case: str, tmp_path: Path) -> None:
    """Flaws 3, 5 and 26: a line that had no effect, or another than it says, is refused with line, field and remedy."""
    text, field, line = WRONG[case]
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        convert(path, tmp_path / "owner")
    assert (caught.value.field, caught.value.line) == (field, line)
    assert caught.value.remedy
    assert SECRET not in str(caught.value)
    assert COMMITTED_SECRET not in str(caught.value).lower()
    assert not (tmp_path / "owner").exists(), "nothing is made of a file that is wrong"


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    """A second import does not make another owner of the first."""
    path = write(tmp_path, SHIPPED)
    convert(path, tmp_path / "owner")
    before = (tmp_path / "owner/keys/identity.pem").read_bytes()
    with pytest.raises(ClfError, match="exists"):
        convert(path, tmp_path / "owner")
    assert (tmp_path / "owner/keys/identity.pem").read_bytes() == before


def test_parsing_shows_no_secret(tmp_path: Path) -> None:
    """Flaw 14: the first CLF printed its secret; here it is in no repr."""
    assert SECRET not in repr(parse_conf(write(tmp_path, SHIPPED)))


def test_a_public_certificate_of_old_is_replaced(tmp_path: Path) -> None:
    """An RSA certificate without names, as the first CLF's script made it, is not used, and the table says why."""
    import subprocess

    (tmp_path / "certs").mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "9", "-keyout",
         "certs/server_private_key.pem", "-out", "certs/server_signed_cert.crt"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    text = (
        SHIPPED
        + "server_cert_path=certs/server_signed_cert.crt\nserver_private_key_path=certs/server_private_key.pem\n"
    )
    rows = convert(write(tmp_path, text), tmp_path / "owner")
    assert rows["certificate"].startswith("a new one")
    assert "P-256" in rows["certificate"]


# --- with a real server --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A simulated platform with its PCCS."""
    with world(tmp_path_factory.mktemp("import")) as made:
        yield made


def test_gen_cert_import_and_a_real_server(scene: World, tmp_path: Path) -> None:
    """gen_cert.sh's certificates and an imported configuration serve a real app over TLS under the old CA."""
    script("tools/gen_cert.sh", "-r", cwd=tmp_path)
    script("tools/gen_cert.sh", "-c", "--host", "127.0.0.1", "--host", "owner.example", cwd=tmp_path)
    port = free_port()
    path = write(
        tmp_path,
        f"MREnclave={bytes([0xA5, *MRENCLAVE[1:]]).hex()}\nsecret={SECRET}\nport={port}\n"
        "server_cert_path=certs/server_signed_cert.crt\nserver_private_key_path=certs/server_private_key.pem\n",
    )
    folder = tmp_path / "owner"
    made = json.loads(
        run_clf(
            "server", "import-conf", path, folder, "--trust", "simulation", "--simulation-root",
            scene.folder / "platform/root.pem", "--pccs", scene.pccs_url, "--admin", f"127.0.0.1:{free_port()}",
            "--json",
        )
    )  # fmt: skip
    assert {row["setting"]: row["now"] for row in made["stricter"]}["certificate"].startswith("kept")
    assert (folder / "keys/tls/ca.crt").read_bytes() == (tmp_path / "certs/ca_cert.crt").read_bytes()
    run_clf("server", "allow", "app", "--dir", folder, "--read", "*.txt", "--key", "secret", "--max-runs", "5",
            "--max-bytes", "1000")  # fmt: skip
    owner = OwnerProcess.__new__(OwnerProcess)
    owner.world, owner.folder, owner.port, owner.process = scene, folder, port, None
    owner.environment = {}
    owner.identity = made["identity"]
    owner.put("a.txt", b"from of old")
    with running(owner), owner.connect(scene.attester(bytes([0xA5, *MRENCLAVE[1:]]))) as app:
        assert app.read_bytes("a.txt") == b"from of old"
        assert app.key("secret") == SECRET.encode()
    # For a host that it does not name, the old certificate is of no use.
    other = run_clf(
        "server",
        "import-conf",
        path,
        tmp_path / "other",
        "--trust",
        "intel",
        "--pcs",
        "--host",
        "other.example",
        "--json",
    )
    rows = {row["setting"]: row["now"] for row in json.loads(other)["stricter"]}
    assert rows["certificate"].startswith("a new one, because of the old one not naming other.example")
    # The CA's key came along, so that a certificate can be renewed without another CA.
    run_clf("server", "renew", "--dir", folder)
    run_clf("server", "check", folder)
