# SPDX-License-Identifier: Apache-2.0
"""What the documentation says can be followed: links, tests, commands and files are there and are accepted."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from clf.app import config as app_config
from clf.cli.main import app
from clf.server.config import Collateral, parse_config
from clf.server.template import render
from clf.wire.problem import CODES
from tests.docs.pages import PAGES, Block, all_blocks, anchors, blocks, links, name
from tests.shared import ROOT

THREATS = ROOT / "docs" / "threat-model.md"
RELIABILITY = ROOT / "docs" / "reliability.md"
COMMAND = typer.main.get_command(app)


def test_the_pages_are_found() -> None:
    """Nothing below is vacuous."""
    found = {name(page) for page in PAGES}
    wanted = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "spec/protocol.md", "docs/adr/template.md"}
    wanted |= {f"docs/{page}.md" for page in ("owner-guide", "app-guide", "threat-model", "cli", "audit")}
    assert wanted <= found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link within the repository names a file that is there, and a heading in it."""
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    """No page is lost."""
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if ":" not in link]
        waiting += [target for target in targets if target.is_file()]
    assert [name(page) for page in PAGES if page not in reached] == []


@cache
def functions(file: Path) -> frozenset[str]:
    """The test functions of a file."""
    tree = ast.parse(file.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def named_tests() -> list[str]:
    """The tests that the threat model and the promises of reliability name."""
    return sorted(set(re.findall(r"`(tests/[^`]+::[^`]+)`", THREATS.read_text() + RELIABILITY.read_text())))


@pytest.mark.parametrize("test", named_tests())
def test_pages_name_tests_that_exist(test: str) -> None:
    """A claim whose guard was renamed or removed is noticed."""
    file, _, function = test.partition("::")
    assert (ROOT / file).is_file()
    assert function in functions(ROOT / file)


def test_every_claim_of_the_threat_model_names_a_test() -> None:
    """A claim without a guard is a wish."""
    text = THREATS.read_text()
    claims = text[text.index("## Claims") : text.index("## What is not defended")]
    rows = [line for line in claims.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    assert len(rows) > 30
    for row in rows:
        assert "`tests/" in row.rpartition(" | ")[2], row


def test_every_promise_of_reliability_names_a_test() -> None:
    """A promise without a guard is a wish, too."""
    text = RELIABILITY.read_text()
    promises = text[text.index("## Promises") : text.index("## Figures")]
    rows = [line for line in promises.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 10
    for row in rows:
        assert "`tests/" in row.rpartition(" | ")[2], row


def targets() -> set[str]:
    """The Makefile's verbs."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_two_commands_are_targets() -> None:
    """README's two commands, and every `make` verb that a page names, are in the Makefile."""
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"^make (\w+)", readme, re.MULTILINE) == ["demo", "test"]
    for page in PAGES:
        for block in blocks(page):
            for verb in re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE):
                assert verb in targets(), f"{block}: make {verb}"


def test_ci_runs_the_readmes_test_command() -> None:
    """What people are told to run is what every change must pass."""
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^stage test .*make test\b", script, re.MULTILINE)
    assert re.search(r"^stage demo make demo$", script, re.MULTILINE)


def commands() -> Iterator[tuple[Block, list[str]]]:
    """Every `clf` command line in a shell block, as a shell would split it."""
    for block in all_blocks("sh"):
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            if line.startswith("clf "):
                yield block, shlex.split(re.sub(r"\$\([^)]*\)", "00", line), comments=True)[1:]


def accept(arguments: list[str]) -> None:
    """Parse a command line with the real parser, and run nothing. Raises click's UsageError."""
    command: Any = COMMAND
    context = click.Context(command, info_name="clf")
    while hasattr(command, "commands"):
        word, *arguments = arguments
        assert word in command.commands, word
        command = command.commands[word]
        context = click.Context(command, info_name=word, parent=context)
    command.make_context(command.name, list(arguments), parent=context.parent)


@pytest.mark.parametrize(
    ("block", "arguments"), [pytest.param(*item, id=" ".join(item[1])[:60]) for item in commands()]
)
def test_command_lines_are_accepted(block: Block, arguments: list[str]) -> None:
    """Commands, options and choices in the documentation are those of the command line."""
    try:
        accept(arguments)
    except Exception as error:
        pytest.fail(f"{block}: clf {' '.join(arguments)}: {error}")


def test_a_wrong_command_line_would_be_noticed() -> None:
    """The check above can fail."""
    with pytest.raises(Exception, match="--mrenclav"):
        accept(["server", "allow", "x", "--mrenclav", "00"])
    with pytest.raises(AssertionError, match="serve"):
        accept(["serve"])


TOML = all_blocks("toml")


def test_there_are_toml_blocks_of_both_kinds() -> None:
    """The guides' files are whole ones, so that what people copy from them works."""
    whole = [block for block in TOML if block.page.name.endswith("-guide.md")]
    assert {block.text.split()[1].rstrip(",") for block in whole} == {"clf.toml", "clf_server.toml"}


@pytest.mark.parametrize("block", TOML, ids=str)
def test_toml_blocks_are_accepted(block: Block, tmp_path: Path) -> None:
    """Configuration in the documentation is read by the real parsers; its first line says which file it is.

    A block without such a line is an extract, and at least TOML.
    """
    if block.text.startswith("# clf.toml\n"):
        (tmp_path / "clf.toml").write_text(block.text)
        assert app_config.load(tmp_path / "clf.toml").owner
        return
    if not block.text.startswith("# clf_server.toml, added to what init made\n"):
        assert not block.page.name.endswith("-guide.md"), "say which file it is"
        assert tomllib.loads(block.text)
        return
    made = render(
        trust="intel", collateral=Collateral("pcs"), listen="0.0.0.0:4433", admin="127.0.0.1:9433", simulation_root=None
    )
    assert parse_config((made + block.text).encode(), tmp_path).policy.grants


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_blocks_use_what_is_there(block: Block) -> None:
    """Python in the documentation parses, and names of `clf` and its owners that it uses exist."""
    import clf
    import clf.filesystem

    tree = ast.parse(block.text)
    owner = set(dir(clf.Owner))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "clf.filesystem":
            assert node.attr in clf.filesystem.__all__
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "clf":
                assert node.attr in (*clf.__all__, "dask", "filesystem")
            if node.value.id == "owner":
                assert node.attr in owner


def test_the_guides_name_codes_that_exist() -> None:
    """A code in a table of errors is one of the protocol's, or of the client's own."""
    own = {"identity_unknown", "unexpected_answer", "signature_invalid", "wrong_request", "unreachable"}
    for page in (ROOT / "docs" / "owner-guide.md", ROOT / "docs" / "app-guide.md"):
        rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", page.read_text(), re.MULTILINE)
        codes = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
        assert len(codes) >= 8
        assert codes <= set(CODES) | own


def test_the_stated_python_versions_agree() -> None:
    """README and pyproject.toml promise the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [item.rpartition(" ")[2] for item in project["classifiers"] if "Python :: 3." in item]
    assert f"Python {', '.join(stated)}" in (ROOT / "README.md").read_text()
    assert project["requires-python"] == f">={stated[0]}"


def test_every_flaw_of_the_original_has_a_test_of_its_number() -> None:
    """Flaws 1 to 22 of the original CLF; 17 to 19, of its Java binding, have theirs in the Java client, too."""
    found = {
        int(number)
        for file in (ROOT / "tests").rglob("test_*.py")
        for number in re.findall(r"^def test_flaw_(\d\d)_", file.read_text(), re.MULTILINE)
    }
    java = (ROOT / "sdk/java/clf-compat/src/test/java/GramineJni/OldEntryPointsTest.java").read_text()
    binding = {int(number) for number in re.findall(r"/\*\* Flaw (\d\d): .*\n    @Test\n", java)}
    assert binding == {17, 18, 19}
    assert set(range(1, 23)) <= found | binding
