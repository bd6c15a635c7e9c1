# SPDX-License-Identifier: Apache-2.0
"""spec/protocol.md says what the code does: its tables, its example, and the vectors that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from clf import limits
from clf.wire import sealed
from clf.wire.documents import RECEIPT_TYP, STATES
from clf.wire.grant import SECRET_LABEL, TOKEN_LABEL, TYP
from clf.wire.problem import CODES, Advice
from clf.wire.request import ID_LABEL, REPORT_DATA_LABEL, parse, report_data, transfer_id
from spec.generate_vectors import FOLDER

TEXT = (FOLDER.parent / "protocol.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text of one section."""
    found = re.search(rf"^## \d+\. {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of a Markdown table whose first cell is code."""
    return [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| `" in line]


def test_the_error_table_is_the_codes() -> None:
    """Each code with its status, meaning and advice stands in the specification, and no other."""
    table = {row[0]: tuple(row[1:]) for row in rows(section("Errors"))}
    assert table == {code: (str(known.status), known.title, known.advice) for code, known in CODES.items()}


def test_every_advice_is_explained() -> None:
    """What a client does is written out for each word that the table uses."""
    for word in get_args(Advice):
        assert f"- **{word}**:" in section("Errors")


def test_the_limits_table_is_the_limits() -> None:
    """Each limit of the protocol stands in the specification with its value and unit, and no other."""
    source = Path(limits.__file__).read_text(encoding="utf-8")
    block = source[source.index("# --- the protocol") :].split("\n# ---", 1)[0]
    names = re.findall(r"^([A-Z_]+): Final", block, re.MULTILINE)
    units = {"BYTES": "bytes", "SECONDS": "seconds", "COUNT": ""}
    expected = [[name, str(getattr(limits, name)), units[name.rsplit("_", 1)[1]]] for name in names]
    assert [row[:3] for row in rows(section("Limits"))] == expected


def test_the_worked_example_holds() -> None:
    """A reader who computes along gets the numbers of the text."""
    text = section("The request")
    example = re.search(r"```json\n(.*?)\n```\n\nand gives\n\n```\n(.*?)\n```", text, re.DOTALL)
    assert example
    request = example.group(1).encode("utf-8")
    parse(request)
    results = re.sub(r"\s", "", example.group(2))
    assert f"report_data={report_data(request).hex()}id={transfer_id(request)}" in results


def test_labels_and_types_are_those_of_the_code() -> None:
    """Every label that separates one hash, key or signature from another is written out."""
    for label in (REPORT_DATA_LABEL, ID_LABEL, SECRET_LABEL, TOKEN_LABEL, sealed.CONTEXT_LABEL):
        assert '"' + label.decode("ascii").replace("\0", "\\0") + '"' in TEXT
    for typ in (TYP, RECEIPT_TYP):
        assert f"`{typ}`" in section("JWS")
    for op in get_args(sealed.Op):
        assert f"| `{op}` |" in section("Sealed bodies")
    for state in STATES:
        assert f"`{state}`" in section("Writing")


def test_the_vectors_that_the_text_names_exist() -> None:
    """Every reference to vectors leads somewhere, and every vector is reached."""
    patterns = {
        name
        for line in re.findall(r"Vectors?(?: of \w+)?:\s([^.]*)\.", TEXT)
        for name in re.findall(r"`([^`]+)`", line)
    }
    stems = {path.stem for path in FOLDER.glob("*.json")}
    reached = {stem for pattern in patterns for stem in stems if re.fullmatch(pattern.replace("*", ".*"), stem)}
    assert all(any(re.fullmatch(p.replace("*", ".*"), stem) for stem in stems) for p in patterns)
    assert stems == reached


def test_the_table_of_contents_is_the_contents() -> None:
    """The list at the top has every section, in order."""
    listed = re.findall(r"(\d+)\. \[([^\]]+)\]\(#", TEXT)
    assert listed == re.findall(r"^## (\d+)\. (.+)$", TEXT, re.MULTILINE)
