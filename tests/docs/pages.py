# SPDX-License-Identifier: Apache-2.0
"""The repository's pages: their links, headings and code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.shared import ROOT

PAGES = sorted(
    path
    for folder, pattern in ((ROOT, "*.md"), (ROOT / "docs", "**/*.md"), (ROOT / "spec", "**/*.md"))
    for path in folder.glob(pattern)
)


def name(path: Path) -> str:
    """Relative to the repository."""
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced code block: its language, its text, and the line where it begins."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """All fenced blocks of a page; fails on one that does not end."""
    found: list[Block] = []
    inside: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.strip().startswith("```"):
            if inside is None:
                inside, lines = (number, line.strip()[3:].strip()), []
            else:
                found.append(Block(page, inside[0], inside[1], "\n".join(lines) + "\n"))
                inside = None
        elif inside is not None:
            lines.append(line)
    assert inside is None, f"{name(page)}: a code block does not end"
    return tuple(found)


def all_blocks(*languages: str) -> list[Block]:
    """Of all pages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


@cache
def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    kept, inside = [], False
    for line in page.read_text().splitlines():
        if line.strip().startswith("```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link into the page may name: the headings as GitHub turns them into anchors."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.*)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        base = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.append(base if base not in found else f"{base}-{found.count(base)}")
    return frozenset(found)


def links(page: Path) -> list[str]:
    """Targets of all links of a page."""
    without_code = re.sub(r"`[^`\n]*`", "", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", without_code)
