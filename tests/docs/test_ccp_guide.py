# SPDX-License-Identifier: Apache-2.0
"""The guide of the first CLF, followed literally with our scripts; and ours, in both languages."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.scripts import script
from tests.deploy.test_ccp import GUIDE_PACK, GUIDE_RUN
from tests.docs.pages import Block, blocks
from tests.shared import ROOT

OLD_GUIDE = Path("mission/clf_client_on_ccp.zh.md")
PAGES = [ROOT / "docs/ccp.md", ROOT / "docs/ccp.zh.md"]

# The old guide's steps: the folder, the lines as they stand there, and what they do here.
STEPS = [
    ("docker", ["./build_clf_client_docker_image.sh"],
     "clf image build client --base ubuntu:20.04 --tag clf-client:gramine1.3-ubuntu20.04"),
    ("docker", ["os_version=ubuntu:18.04", "image_tag= clf-server:gramine1.3-ubuntu18.04",
                "./build_clf_server_docker_image.sh ${os_version} ${image_tag}"],
     "clf image build server --base ubuntu:18.04 --tag clf-server:gramine1.3-ubuntu18.04"),
    ("docker", ["./start_clf_client_conatiner.sh"], "clf-client:gramine1.3-ubuntu20.04"),
    ("ccp", ["./converct_clf_client_to_ccp_image.sh"], "ccp-cli pack"),
]  # fmt: skip


def follow(folder: str, lines: list[str]) -> str:
    """Type the lines into a shell in a folder of ours; what builds or starts something only says what it would do."""
    typed = [f"{line} --dry-run" if ".sh" in line and "ccp_image" not in line else line for line in lines]
    done = subprocess.run(
        ["bash", "-c", "\n".join(typed)], cwd=ROOT / folder, capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("folder", "lines", "does"), STEPS, ids=[step[1][-1] for step in STEPS])
def test_the_old_guides_steps(folder: str, lines: list[str], does: str) -> None:
    """Names, spelling mistakes, arguments and defaults of the old guide are accepted and mean the same."""
    assert does in follow(folder, lines)


def written_steps(guide: str) -> set[str]:
    """Every script that a guide names, and every assignment before one, as it stands there."""
    lines = [line.strip() for line in guide.splitlines()]
    steps = {line for line in lines if re.match(r"\./|(os_version|image_tag)=", line)}
    return (
        steps
        | set(re.findall(r"`(\./\S+\.sh)`", guide))
        | {f"./{name}" for name in re.findall(r"`(con\S+\.sh)`", guide)}
    )


def test_the_steps_above_are_all_of_the_guides() -> None:
    """Where the old guide itself is at hand, its steps are those above, and its commands those that we compare with."""
    path = Path(os.environ.get("CLF_SHARED", ROOT.parent / "shared")) / OLD_GUIDE
    known = {line for _, lines, _ in STEPS for line in lines}
    assert written_steps("\n".join(sorted(known))) == known
    if path.exists():
        guide = path.read_text()
        assert written_steps(guide) == known
        assert GUIDE_PACK.strip() in guide
        assert GUIDE_RUN.strip() in guide


# --- our pages -----------------------------------------------------------------------------------


def script_lines() -> Iterator[tuple[Block, str, str]]:
    """Each command line of a script in our two pages, with its folder."""
    for page in PAGES:
        for block in blocks(page):
            if block.language != "sh":
                continue
            variables = dict(re.findall(r"^(\w+)=(\S+)$", block.text, re.MULTILINE))
            for line in block.text.splitlines():
                if re.match(r"(\./|tools/)\S+\.sh", line):
                    for name, value in variables.items():
                        line = line.replace(f"${{{name}}}", value)  # noqa: PLW2901
                    folder = "ccp" if "ccp_image" in line else "docker" if line.startswith("./") else "."
                    yield block, folder, line


@pytest.mark.parametrize(("block", "folder", "line"), [pytest.param(*item, id=item[2]) for item in script_lines()])
def test_our_pages_command_lines_work(block: Block, folder: str, line: str, tmp_path: Path) -> None:
    """Every script that the pages name is there and takes the arguments that they give."""
    name, *arguments = shlex.split(line)
    flags = [] if "ccp_image" in name else ["--out", str(tmp_path)] if "gen_cert" in name else ["--dry-run"]
    assert script(str(Path(folder) / name), *arguments, *flags).stdout


def test_both_languages_say_the_same() -> None:
    """The pages have the same commands in the same order, the same printed blocks, and the same sections and tables."""

    def shape(page: Path) -> tuple[list[str], list[int], list[int]]:
        codes = [re.sub(r" +#.*", "", block.text) for block in blocks(page)]
        text = page.read_text()
        levels = [len(marks) for marks in re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)]
        tables = [len(rows.strip().splitlines()) for rows in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
        return codes, levels, tables

    english, chinese = map(shape, PAGES)
    assert english == chinese
    assert len(english[0]) > 10
    assert len(english[2]) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("kind", ["client"])
def test_the_printed_commands_are_those_of_the_script(page: Path, kind: str) -> None:
    """What the pages show is what the script prints, to the letter."""
    printed = script(f"ccp/convert_clf_{kind}_to_ccp_image.sh").stdout.strip().split("\n\n")
    shown = [block.text.strip() for block in blocks(page) if not block.language]
    assert shown == printed
