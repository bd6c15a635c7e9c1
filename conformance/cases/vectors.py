# SPDX-License-Identifier: Apache-2.0
"""The vectors of spec/vectors, one case for each kind that clients read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.cases.base import Case, Collected, scratch
from conformance.client import Client, FailedError, Place, SkippedError, expect

if TYPE_CHECKING:
    from conformance.stage import Stage

FOLDER = Path(__file__).parents[2] / "spec" / "vectors"
KINDS = (
    "base64url", "context", "grant", "json", "jwe", "jwk", "jws", "manifest", "path", "problem", "receipt", "request",
    "sealed", "sealed_size", "status",
)  # fmt: skip
NOWHERE = Place("https://127.0.0.1:1", Path("/dev/null"), "A" * 43)

Vector = dict[str, Any]


def load(kind: str) -> list[tuple[Path, Vector]]:
    """The vectors of a kind that clients read, sorted by name: what is wrong in R is for servers."""
    found = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(FOLDER.glob("*.json"))]
    return [
        (path, vector)
        for path, vector in found
        if vector["kind"] == kind and not (kind == "request" and vector["expect"] != "ok")
    ]


def ask(client: Client, files: Sequence[Path]) -> list[Vector]:
    """What the client says about files: in one call, or in one call each where it takes no more."""
    together = client.run(NOWHERE, "vector", *files)
    lines = together.stdout.decode("utf-8", "replace").splitlines()
    if together.exit != 0 or len(lines) != len(files):
        if len(files) == 1:
            together.ok()
            raise FailedError(f"vector {files[0].name}: {len(lines)} lines")
        return [answer for file in files for answer in ask(client, [file])]
    answers = []
    for file, line in zip(files, lines, strict=True):
        try:
            answer = json.loads(line)
        except ValueError:
            raise FailedError(f"vector {file.name}: not JSON: {line[:200]!r}") from None
        fine = isinstance(answer, dict) and {"expect", "result"} <= set(answer) <= {"expect", "result", "skipped"}
        expect(fine, f"vector {file.name}: {line[:200]}")
        answers.append(answer)
    return answers


def _case(kind: str) -> Case:
    def body(_stage: Stage, client: Client) -> None:
        vectors = load(kind)
        expect(bool(vectors), f"there is no vector of kind {kind}")
        answers = ask(client, [path for path, _ in vectors])
        wrong = []
        skipped = []
        for (_, vector), answer in zip(vectors, answers, strict=True):
            if answer.get("skipped"):
                skipped.append(f"{vector['name']}: {answer['skipped']}")
            elif answer["result"] != vector["expect"] or answer["expect"] != vector["expect"]:
                wrong.append(f"{vector['name']}: {answer['result']} instead of {vector['expect']}")
        expect(not wrong, "; ".join(wrong))
        if skipped:
            raise SkippedError("; ".join(skipped))

    count = len(load(kind))
    return Case(f"vectors_{kind}", f"{count} vectors of kind `{kind}`", body)


def spoilt(value: Any) -> Any:
    """Another value of the same form."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        last = "0" if value[-1:] != "0" else "1"
        return value[:-1] + last if value else "00"
    if isinstance(value, dict):
        name = sorted(value)[0]
        return {**value, name: spoilt(value[name])}
    if isinstance(value, list):
        return [spoilt(value[0]), *value[1:]] if value else ["another"]
    return "another"


OUTPUTS: dict[str, tuple[str, ...]] = {
    "base64url": ("bytes_hex",),
    "context": ("context_hex",),
    "grant": ("opened",),
    "jwe": ("plaintext_hex",),
    "jwk": ("thumbprint",),
    "jws": ("payload_hex",),
    "manifest": ("entries",),
    "path": ("directory",),
    "problem": ("code", "advice", "reference"),
    "receipt": ("committed",),
    "request": ("report_data_hex", "id", "digest"),
    "sealed": ("sha256",),
    "sealed_size": ("sealed_bytes",),
    "status": ("state", "received"),
}


def spoilt_vectors() -> Iterator[Vector]:
    """For each output of each kind, a good vector whose output is not what comes out."""
    for kind, names in OUTPUTS.items():
        good = [vector for _, vector in load(kind) if vector["expect"] == "ok"]
        for name in names:
            original = next(vector for vector in reversed(good) if vector.get(name) not in (None, "", []))
            yield {**original, name: spoilt(original[name]), "about": f"`{name}` is not what comes out"}


CASES = Collected(_case(kind) for kind in KINDS)


@CASES
def vectors_are_compared(_stage: Stage, client: Client) -> None:
    """Vectors with a wrong output are not `ok`: the client compares what it says it compares."""
    with scratch() as folder:
        files = []
        for number, vector in enumerate(spoilt_vectors()):
            file = folder / f"{number:02}-{vector['name']}.json"
            file.write_text(json.dumps(vector), encoding="ascii")
            files.append(file)
        answers = ask(client, files)
    fooled = [file.name for file, answer in zip(files, answers, strict=True) if answer["result"] == "ok"]
    expect(not fooled, f"called ok although an output is wrong: {', '.join(fooled)}")
