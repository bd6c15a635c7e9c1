# SPDX-License-Identifier: Apache-2.0
"""spec/openapi.yaml as a judge: what a server answers is held against what the document says of the operation.

Every answer that a `Watched` gets is judged, whatever the test is about: status, media type, header fields, JSON
schema, and for an error its code. Nothing undocumented passes.
"""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_plus

import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from clf.wire.problem import MEDIA_TYPE
from tests.e2e.raw import Answer, Raw
from tests.shared import ROOT
from tests.world import OwnerProcess, PlatformAttester

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "PROPFIND", "get")
TRANSPORT_FIELDS = {"connection", "content-length", "content-type", "date", "server"}
"""Header fields that HTTP itself, not the document, explains."""

Triple = tuple[str, int, str]
"""Operation, status and code of one error."""


@dataclass(frozen=True)
class Operation:
    """One operation of the document."""

    id: str
    method: str
    template: str
    parameters: tuple[dict[str, Any], ...]
    responses: dict[str, dict[str, Any]]

    @property
    def query(self) -> dict[str, dict[str, Any]]:
        """The schemas of the query's parameters."""
        return {item["name"]: item["schema"] for item in self.parameters if item["in"] == "query"}


class Document:
    """spec/openapi.yaml."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = yaml.safe_load((ROOT / "spec" / "openapi.yaml").read_text(encoding="utf-8"))
        self.components: dict[str, Any] = self.value["components"]
        self.operations: dict[str, Operation] = {}
        for template, item in self.value["paths"].items():
            shared = item.get("parameters", [])
            for method, found in item.items():
                if method != "parameters":
                    self.operations[found["operationId"]] = Operation(
                        id=found["operationId"],
                        method=method.upper(),
                        template=template,
                        parameters=tuple(self.resolved(one) for one in [*shared, *found.get("parameters", [])]),
                        responses={status: self.resolved(one) for status, one in found["responses"].items()},
                    )

    def resolved(self, item: dict[str, Any]) -> dict[str, Any]:
        """What a reference points to."""
        while "$ref" in item:
            target: Any = self.value
            for name in item["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            item = target
        return item

    @property
    def templates(self) -> list[str]:
        """Every path."""
        return list(self.value["paths"])

    def methods(self, template: str) -> set[str]:
        """Every method of a path."""
        return {found.method for found in self.operations.values() if found.template == template}

    def template(self, target: str) -> str | None:
        """The path that a request target means."""
        path = unquote(target.partition("?")[0])
        for template in self.templates:
            if re.fullmatch(re.escape(template).replace(r"\{id\}", "[^/]+"), path):
                return template
        return None

    def conforms(self, method: str, target: str) -> bool:
        """Whether id and query of a request are those that the document asks for."""
        operation = self.operation(method, target)
        if operation is None:
            return False
        path, _, query = target.partition("?")
        pairs = [tuple(map(unquote_plus, item.partition("=")[::2])) for item in query.split("&")] if query else []
        if sorted(name for name, _ in pairs) != sorted(operation.query):
            return False
        if "{id}" in operation.template and not self.valid(
            {"$ref": "#/components/schemas/Digest"}, unquote(path).split("/")[3]
        ):
            return False
        return all(self._conforms(operation.query[name], value) for name, value in pairs)

    def _conforms(self, schema: dict[str, Any], written: str) -> bool:
        number = self.resolved(schema).get("type") == "integer"
        if number and not re.fullmatch(r"(0|[1-9][0-9]{0,30})", written):
            return False
        return self.valid(schema, int(written) if number else written)

    def operation(self, method: str, target: str) -> Operation | None:
        """The operation that a request means, if it means one."""
        template = self.template(target)
        found = [one for one in self.operations.values() if (one.method, one.template) == (method, template)]
        return found[0] if found else None

    def valid(self, schema: dict[str, Any], value: object) -> bool:
        """Whether a value has the form of a schema."""
        return not self.mistakes(schema, value)

    def mistakes(self, schema: dict[str, Any], value: object) -> list[str]:
        """What is wrong with a value, by a schema."""
        validator = Draft202012Validator({"allOf": [schema], "components": self.components})
        return [error.message for error in validator.iter_errors(value)]

    def errors(self, operation: Operation) -> set[Triple]:
        """Every error that an operation lists."""
        found = set()
        for status, response in operation.responses.items():
            if status >= "400":
                codes = response["content"][MEDIA_TYPE]["schema"]["allOf"][1]["properties"]["code"]["enum"]
                found |= {(operation.id, int(status), code) for code in codes}
        return found

    def responses_of(self, method: str, target: str) -> dict[str, dict[str, Any]]:
        """What may be answered to a request, by status: its operation's, or what the introduction says of others."""
        operation = self.operation(method, target)
        if operation is not None:
            return operation.responses
        known = self.components["responses"]
        if self.template(target) is not None:
            return {"405": known["NotAllowed"], "429": known["TooMany"]}
        return {"404": known["NotFound"], "429": known["TooMany"]}

    def judge(self, method: str, target: str, answer: Answer) -> None:
        """Fail unless the document has this answer."""
        said = f"{method} {target[:200]}: {answer.status} {answer.body[:300]!r}"
        responses = self.responses_of(method, target)
        assert str(answer.status) in responses, f"{said}: no such status, only {sorted(responses)}"
        response = responses[str(answer.status)]
        fields = {name.lower(): value for name, value in answer.headers.items()}
        self._judge_fields(fields, response.get("headers", {}), said)
        if "content" not in response:
            assert answer.body == b"", said
            assert "content-type" not in fields, said
            return
        (media_type,) = response["content"]
        assert fields.get("content-type") == media_type, f"{said}: {fields}"
        if method == "HEAD":
            assert answer.body == b"", said
            return
        assert fields.get("content-length") == str(len(answer.body)), f"{said}: {fields}"
        schema = response["content"][media_type].get("schema")
        if schema is not None:
            mistakes = self.mistakes(schema, json.loads(answer.body))
            assert mistakes == [], f"{said}: {mistakes}"

    def _judge_fields(self, fields: dict[str, str], documented: dict[str, Any], said: str) -> None:
        headers = {name.lower(): self.resolved(one) for name, one in documented.items()}
        assert set(fields) <= set(headers) | TRANSPORT_FIELDS, f"{said}: {fields}"
        for name, header in headers.items():
            assert name in fields or not header.get("required"), f"{said}: no {name} in {fields}"
            if name in fields:
                number = header["schema"].get("type") == "integer" and fields[name].isdecimal()
                value: object = int(fields[name]) if number else fields[name]
                assert self.valid(header["schema"], value), f"{said}: {name}: {fields[name]}"


DOCUMENT = Document()


class AtOnce(http.client.HTTPSConnection):
    """Head and body leave in one record: a server that answers before it reads a body may be gone when it comes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pending = bytearray()

    def send(self, data: Any) -> None:
        """Keep it until the answer is wanted."""
        self._pending += data

    def getresponse(self) -> http.client.HTTPResponse:
        """Send everything and read the answer."""
        self.connect()
        self.sock.sendall(self._pending)
        return super().getresponse()


class Watched(Raw):
    """Requests by hand, each answer judged by the document. `seen` has operation, status and conformity of each."""

    def __init__(self, owner: OwnerProcess, attester: PlatformAttester | None = None) -> None:
        super().__init__(owner, attester)
        self.seen: list[tuple[str, int, bool]] = []

    def connection(self) -> http.client.HTTPSConnection:
        """See Raw."""
        return AtOnce("127.0.0.1", self.owner.port, timeout=100, context=self.context)

    def call(self, method: str, target: str, body: bytes | None = None, *, token: str = "", **headers: str) -> Answer:
        """See Raw."""
        answer = super().call(method, target, body, token=token, **headers)
        DOCUMENT.judge(method, target, answer)
        operation = DOCUMENT.operation(method, target)
        if operation is not None:
            self.seen.append((operation.id, answer.status, DOCUMENT.conforms(method, target)))
        return answer
