# SPDX-License-Identifier: Apache-2.0
"""spec/openapi.yaml is valid OpenAPI 3.1, and says what the code says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from clf import limits
from clf.wire.encoding import b64url
from clf.wire.grant import TYP
from clf.wire.problem import CODES, MEDIA_TYPE, TYPE_PREFIX, encode_problem
from spec.generate_vectors import FOLDER

DOCUMENT: dict[str, Any] = yaml.safe_load((FOLDER.parent / "openapi.yaml").read_text(encoding="utf-8"))
COMPONENTS: dict[str, Any] = DOCUMENT["components"]
OPERATIONS = [
    (path, method, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
]


def resolved(item: dict[str, Any]) -> dict[str, Any]:
    """What a reference points to."""
    while "$ref" in item:
        target: Any = DOCUMENT
        for name in item["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        item = target
    return item


def valid(name: str, value: object) -> bool:
    """Whether a value has the form of a schema."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": COMPONENTS}
    return bool(Draft202012Validator(schema).is_valid(value))


def codes_of(response: dict[str, Any]) -> list[str]:
    """The codes that a response of errors lists."""
    schema = response["content"][MEDIA_TYPE]["schema"]
    assert schema["allOf"][0] == {"$ref": "#/components/schemas/Problem"}
    listed: list[str] = schema["allOf"][1]["properties"]["code"]["enum"]
    return listed


def test_it_is_valid_openapi() -> None:
    """Tools that read OpenAPI 3.1 can read ours."""
    errors = [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()]
    assert errors == []


def test_every_code_stands_under_its_status() -> None:
    """The error responses list exactly the codes of the protocol, each with its own status."""
    found: dict[str, int] = {}
    for name, response in COMPONENTS["responses"].items():
        if name != "Sealed":
            status = response["content"][MEDIA_TYPE]["schema"]["allOf"][1]["properties"]["status"]["const"]
            found |= dict.fromkeys(codes_of(response), status)
    assert found == {code: known.status for code, known in CODES.items()}


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda value: str(value)[:40])
def test_operations_are_complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Each operation names its success, its errors under their own status, and the token where one is needed."""
    statuses = set(operation["responses"])
    assert statuses & {"200", "201", "204"}
    assert {"400", "429", "500"} <= statuses
    for status, response in operation["responses"].items():
        target = resolved(response)
        assert "Cache-Control" in target["headers"]
        if status >= "400":
            assert all(CODES[code].status == int(status) for code in codes_of(target))
    assert (operation.get("security") == [{"token": []}]) == ("{id}" in path)
    if "{id}" in path and method != "delete":
        names = [resolved(parameter)["name"] for parameter in operation["parameters"]]
        assert names[-1] == "nonce"


def test_the_resources_are_those_of_the_protocol() -> None:
    """The table in protocol.md and the paths here are one set, with the same query parameters."""
    text = (FOLDER.parent / "protocol.md").read_text(encoding="utf-8")
    table = {}
    for method, path, parameters in re.findall(r"^\| (GET|POST|PUT|DELETE) `([^`]+)` \|([^|]*)\|", text, re.MULTILINE):
        table[method.lower(), path] = set(re.findall(r"`(\w+)`", parameters))
    found = {
        (method, path): {
            parameter["name"]
            for parameter in map(resolved, operation.get("parameters", []))
            if parameter["in"] == "query"
        }
        for path, method, operation in OPERATIONS
    }
    assert found == table


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_code_s_errors_have_the_described_form(code: str) -> None:
    """What the server writes is what the document promises."""
    body = json.loads(encode_problem(code, reference="r-1", detail="because", versions=["v1"]))
    assert valid("Problem", body)
    assert not valid("Problem", body | {"type": TYPE_PREFIX + "No"})


def test_the_vectors_have_the_described_forms() -> None:
    """Keys, ids, grants and receipts of the vectors match the document's patterns, and damaged ones do not."""
    read = json.loads((FOLDER / "grant_read.json").read_text())
    assert valid("Opened", {"grant": read["grant"]})
    assert not valid("Opened", {"grant": read["grant"] + "="})
    assert valid("Jwk", read["identity"])
    assert not valid("Jwk", read["key"])
    basic = json.loads((FOLDER / "report_data_basic.json").read_text())
    assert valid("Digest", basic["id"])
    challenge = json.loads((FOLDER / "challenge_fresh.json").read_text())["challenge"]
    assert valid("Challenge", {"challenge": challenge, "expires_in": 120, "identity": read["identity"]})
    body = {"request": basic["request"], "evidence": {"format": "sgx-dcap", "quote": "AAAA"}}
    assert valid("OpenTransfer", body)
    assert not valid("OpenTransfer", body | {"more": 1})
    assert valid("WellKnown", {"versions": ["v1"], "identity": read["identity"], "simulated": True, "later": 1})


def test_bounds_are_those_of_limits() -> None:
    """Numbers in the document are the numbers of the code."""
    schemas = COMPONENTS["schemas"]
    assert schemas["Number"]["maximum"] == limits.FILE_BYTES
    assert schemas["OpenTransfer"]["properties"]["request"]["maxLength"] == len(b64url(bytes(limits.REQUEST_BYTES)))
    quote = schemas["OpenTransfer"]["properties"]["evidence"]["properties"]["quote"]
    assert quote["maxLength"] == len(b64url(bytes(limits.QUOTE_BYTES)))
    assert schemas["Opened"]["properties"]["grant"]["maxLength"] == limits.GRANT_BYTES
    assert COMPONENTS["parameters"]["index"]["schema"]["maximum"] == limits.MANIFEST_ENTRIES_COUNT - 1
    assert re.fullmatch(COMPONENTS["parameters"]["nonce"]["schema"]["pattern"], b64url(bytes(limits.NONCE_BYTES)))
    assert TYP in schemas["Opened"]["properties"]["grant"]["description"]
