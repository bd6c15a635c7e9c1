# SPDX-License-Identifier: Apache-2.0
"""What the Python client makes of one vector of spec/vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.client.http import advice
from clf.errors import ClfError
from clf.wire import documents, grant, jose, paths, request, sealed
from clf.wire.encoding import b64url, parse_object, unb64url
from clf.wire.keys import public_from_jwk, thumbprint
from clf.wire.problem import decode_problem

Vector = dict[str, Any]


def _private(jwk: dict[str, str]) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(unb64url(jwk["d"], "d"), "big"), ec.SECP256R1())


def _context(value: Vector) -> sealed.Context:
    members = {key: value[key] for key in ("op", "id", "path", "etag", "offset", "length")}
    return sealed.Context(nonce=bytes.fromhex(value["nonce_hex"]), **members)


def _base64url(v: Vector) -> Vector:
    return {"bytes_hex": unb64url(v["text"], "text").hex()}


def _json(v: Vector) -> Vector:
    parse_object(bytes.fromhex(v["document_hex"]), "document", most=limits.REQUEST_BYTES)
    return {}


def _jwk(v: Vector) -> Vector:
    return {"thumbprint": thumbprint(public_from_jwk(v["jwk"], "jwk"))}


def _path(v: Vector) -> Vector:
    return {"directory": paths.is_directory(paths.check_path(v["path"]))}


def _request(v: Vector) -> Vector:
    data = unb64url(v["request"], "request")
    return {
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
    secret, data = bytes.fromhex(v["secret_hex"]), unb64url(v["sealed"], "sealed")
    plain = sealed.open_sealed(secret, _context(v["context"]), data, expected=v["length"])
    return {"sha256": hashlib.sha256(plain).hexdigest()}


def _sealed_size(v: Vector) -> Vector:
    return {"sealed_bytes": sealed.sealed_size(v["length"])}


def _status(v: Vector) -> Vector:
    status = documents.Status.decode(bytes.fromhex(v["document_hex"]))
    return {"state": status.state, "received": status.received}


def _manifest(v: Vector) -> Vector:
    entries = documents.decode_manifest(bytes.fromhex(v["document_hex"]), folder=v["folder"])
    return {"entries": [{"path": e.path, "size": e.size, "etag": e.etag, "modified": e.modified} for e in entries]}


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
    found = {"code": error.code, "advice": advice(error)}
    if "reference" in v:
        found["reference"] = error.reference
    if "detail" in v:
        found["detail"] = v["detail"] if v["detail"] in error.message else error.message
    return found


KINDS: dict[str, Callable[[Vector], Vector]] = {
    "base64url": _base64url,
    "json": _json,
    "jwk": _jwk,
    "path": _path,
    "request": _request,
    "jws": _jws,
    "jwe": _jwe,
    "grant": _grant,
    "context": _encode_context,
    "sealed": _sealed,
    "sealed_size": _sealed_size,
    "status": _status,
    "manifest": _manifest,
    "receipt": _receipt,
    "problem": _problem,
}


def run_vector(vector: Vector) -> Vector:
    """What README.md says that `vector` prints for one file."""
    run = KINDS.get(vector["kind"])
    if run is None or (vector["kind"] == "request" and vector["expect"] != "ok"):
        return {"expect": vector["expect"], "result": "", "skipped": "only servers read this"}
    try:
        outputs = run(vector)
    except ClfError as error:
        return {"expect": vector["expect"], "result": error.code}
    same = all(vector.get(name) == value for name, value in outputs.items())
    return {"expect": vector["expect"], "result": "ok" if same else "wrong_output"}
