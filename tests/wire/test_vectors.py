# SPDX-License-Identifier: Apache-2.0
"""Every vector of spec/vectors through the product's code, each kind by its own small function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import ClfError
from clf.wire import challenge, documents, grant, jose, paths, request, sealed
from clf.wire.encoding import b64url, parse_object, unb64url
from clf.wire.keys import public_from_jwk, thumbprint
from clf.wire.problem import decode_problem
from spec import cobblestone
from spec.generate_vectors import FOLDER, differences

FILES = sorted(FOLDER.glob("*.json"))
Vector = dict[str, Any]


def _private(jwk: dict[str, str]) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(unb64url(jwk["d"], "d"), "big"), ec.SECP256R1())


def _context(value: Vector) -> sealed.Context:
    members = {key: item for key, item in value.items() if key in ("op", "id", "path", "etag", "offset", "length")}
    return sealed.Context(nonce=bytes.fromhex(value["nonce_hex"]), **members)


def _base64url(v: Vector) -> Vector:
    return {"bytes_hex": unb64url(v["text"], "text").hex()}


def _json(v: Vector) -> Vector:
    parse_object(bytes.fromhex(v["document_hex"]), "document", most=limits.REQUEST_BYTES)
    return {}


def _jwk(v: Vector) -> Vector:
    key = public_from_jwk(v["jwk"], "jwk")
    return {"thumbprint": thumbprint(key), "hashed": v["hashed"]}


def _path(v: Vector) -> Vector:
    return {"directory": paths.is_directory(paths.check_path(v["path"]))}


def _glob(v: Vector) -> Vector:
    return {"covers": paths.match_glob(paths.check_glob(v["glob"]), paths.check_path(v["path"]))}


def _challenge(v: Vector) -> Vector:
    keys = {name: bytes.fromhex(key) for name, key in v["keys"].items()}
    challenge.check(v["challenge"], keys=keys, audience=v["audience"], now=v["now"])
    return {}


def _request(v: Vector) -> Vector:
    data = unb64url(v["request"], "request")
    request.parse(data)
    return {
        "request_text": data.decode("utf-8"),
        "report_data_hex": request.report_data(data).hex(),
        "id": request.transfer_id(data),
        "digest": b64url(request.request_digest(data)),
    }


def _jws(v: Vector) -> Vector:
    payload = jose.verify_jws(v["token"], public_from_jwk(v["identity"], "identity"), typ=v["typ"])
    return {"payload_hex": payload.hex()}


def _jwe(v: Vector) -> Vector:
    apu, apv = bytes.fromhex(v["apu_hex"]), bytes.fromhex(v["apv_hex"])
    return {"plaintext_hex": jose.decrypt_jwe(v["token"], _private(v["key"]), apu=apu, apv=apv).hex()}


def _secret(v: Vector) -> Vector:
    key = bytes.fromhex(v["transfer_key_hex"])
    return {"secret_hex": grant.derive_secret(key, v["id"]).hex(), "token": grant.derive_token(key, v["id"])}


def _grant(v: Vector) -> Vector:
    found = grant.open_grant(
        v["grant"],
        request=unb64url(v["request"], "request"),
        key=_private(v["key"]),
        audience=v["audience"],
        identity=public_from_jwk(v["identity"], "identity"),
    )
    if found.key is not None:
        return {"opened": {"key_hex": found.key.hex()}}
    members = json.loads(found.to_json())
    del members["secret"]
    return {"opened": members | {"secret_hex": found.secret.hex()}}


def _encode_context(v: Vector) -> Vector:
    return {"context_hex": _context(v).encode().hex()}


def _sealed(v: Vector) -> Vector:
    context = _context(v["context"])
    assert context.encode().hex() == v["context_hex"]
    secret, data = bytes.fromhex(v["secret_hex"]), unb64url(v["sealed"], "sealed")
    by_hand, complete = cobblestone.open_message(secret, context.encode(), data)
    if "authentic_bytes" in v:
        assert len(by_hand) == v["authentic_bytes"]
        assert not complete or len(by_hand) != v["length"]
    plain = sealed.open_sealed(secret, context, data, expected=v["length"])
    assert (plain, True) == (by_hand, complete)
    return {"sha256": hashlib.sha256(plain).hexdigest()}


def _sealed_size(v: Vector) -> Vector:
    return {"sealed_bytes": sealed.sealed_size(v["length"])}


def _status(v: Vector) -> Vector:
    status = documents.Status.decode(bytes.fromhex(v["document_hex"]))
    return {"state": status.state, "received": status.received}


def _manifest(v: Vector) -> Vector:
    entries = documents.decode_manifest(bytes.fromhex(v["document_hex"]), folder=v["folder"])
    return {"entries": [{"path": e.path, "size": e.size, "etag": e.etag, "modified": e.modified} for e in entries]}


def _commit(v: Vector) -> Vector:
    commit = documents.Commit.decode(bytes.fromhex(v["document_hex"]))
    inputs = [{"owner": item.owner, "transfer": item.transfer} for item in commit.inputs]
    return {"size": commit.size, "sha256": commit.sha256, "inputs": inputs, "digest": commit.digest}


def _receipt(v: Vector) -> Vector:
    receipt = documents.check_receipt(
        v["receipt"],
        request=unb64url(v["request"], "request"),
        path=v["path"],
        commit=documents.Commit.decode(bytes.fromhex(v["document_hex"])),
        identity=public_from_jwk(v["identity"], "identity"),
    )
    return {"committed": receipt.committed}


def _problem(v: Vector) -> Vector:
    error = decode_problem(v["status"], bytes.fromhex(v["body_hex"]))
    found = {"code": error.code, "advice": v["advice"]}
    if error.reference:
        found["reference"] = error.reference
    if "detail" in v:
        assert v["detail"] in error.message
        found["detail"] = v["detail"]
    return found


KINDS: dict[str, Callable[[Vector], Vector]] = {
    "base64url": _base64url,
    "json": _json,
    "jwk": _jwk,
    "path": _path,
    "glob": _glob,
    "challenge": _challenge,
    "request": _request,
    "jws": _jws,
    "jwe": _jwe,
    "secret": _secret,
    "grant": _grant,
    "context": _encode_context,
    "sealed": _sealed,
    "sealed_size": _sealed_size,
    "status": _status,
    "manifest": _manifest,
    "commit": _commit,
    "receipt": _receipt,
    "problem": _problem,
}


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_vector(name: str) -> None:
    """A published vector gives the published outputs, or the published refusal."""
    vector = json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))
    assert vector["name"] == name
    run = KINDS[vector["kind"]]
    if vector["expect"] == "ok":
        outputs = run(vector)
        assert outputs == {key: vector[key] for key in outputs}
    else:
        with pytest.raises(ClfError) as caught:
            run(vector)
        assert caught.value.code == vector["expect"]


def test_vectors_are_what_the_generator_makes() -> None:
    """No vector is edited by hand, missing or left over."""
    assert differences() == []


def test_every_kind_is_described_and_present() -> None:
    """The README's table names exactly the kinds that exist."""
    rows = [line.split("`")[1] for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| `")]
    kinds = {json.loads(path.read_text())["kind"] for path in FILES}
    assert sorted(rows) == sorted(KINDS)
    assert kinds == set(KINDS)
