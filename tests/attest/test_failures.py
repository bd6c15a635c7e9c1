# SPDX-License-Identifier: Apache-2.0
"""Every failure has a cause and a remedy, is raised somewhere, is tested, and stands in the documentation."""

from __future__ import annotations

import errno
import re

import pytest

from clf.attest.failures import FAILURES, failure
from tests.shared import ROOT

PAGE = ROOT / "docs" / "attesters.md"


def row(code: str) -> str:
    """The line of the documentation's table."""
    known = FAILURES[code]
    return f"| `{code}` | {known.cause} | {known.remedy} |"


def test_the_documentation_has_the_same_table() -> None:
    """Codes, causes and remedies in docs/attesters.md are those of the code, in its order."""
    found = [line for line in PAGE.read_text().splitlines() if re.match(r"\| `(gramine|tsm|rtmr)_", line)]
    assert found == [row(code) for code in FAILURES]


@pytest.mark.parametrize("code", FAILURES)
def test_each_code_is_used_and_tested(code: str) -> None:
    """No code is there for nothing, and none without a test that provokes it."""
    source = "".join(path.read_text() for path in (ROOT / "src/clf/attest").glob("*.py") if path.stem != "failures")
    tests = "".join(path.read_text() for path in (ROOT / "tests/attest").glob("test_*.py"))
    assert f'"{code}"' in source
    assert f'"{code}"' in tests
    assert "|" not in FAILURES[code].cause + FAILURES[code].remedy


def test_the_message_names_what_was_seen() -> None:
    """The kernel's errno by its name, a text as it is."""
    assert failure("tsm_busy", OSError(errno.EBUSY, "x")).message.endswith("[EBUSY]")
    assert failure("tsm_busy", "seen").message.endswith("[seen]")
    assert failure("tsm_busy").message == FAILURES["tsm_busy"].cause
