# SPDX-License-Identifier: Apache-2.0
"""The line that an error names is the line where the value stands."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import example, given
from hypothesis import strategies as st

from clf.toml_lines import Lines, Path

TEXT = '''\
top = 1 # [not.a.table]
"quoted key".'other.key' = """
[[not a table]]
x = 1
"""
[a] # one
b.c = { d = [1,
  { e = 2 },
  "]", '#',
], f = "}" }
g = \'\'\'a'\'\'\'
[[list]]
x = 1
[[list]]
x = 2
[list.sub]
y = 3
[[list.deep]]
z = "\\"" # comment
[a.h]
i = 1979-05-27 07:32:00
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("quoted key", "other.key"), 2),
        (("a",), 6),
        (("a", "b", "c"), 7),
        (("a", "b", "c", "d", 0), 7),
        (("a", "b", "c", "d", 1, "e"), 8),
        (("a", "b", "c", "d", 3), 9),
        (("a", "b", "c", "f"), 10),
        (("a", "g"), 11),
        (("list",), 12),
        (("list", 0, "x"), 13),
        (("list", 1), 14),
        (("list", 1, "x"), 15),
        (("list", 1, "sub", "y"), 17),
        (("list", 1, "deep", 0, "z"), 19),
        (("a", "h", "i"), 21),
        (("a", "h", "absent"), 20),
        (("absent",), 0),
    ],
)
def test_each_value_is_found_on_its_line(path: Path, line: int) -> None:
    """Tables, arrays, inline tables, dotted and quoted keys, and strings over several lines are told apart."""
    tomllib.loads(TEXT)
    assert Lines(TEXT).of(path) == line


def leaves(tree: Any, path: Path = ()) -> list[Path]:
    """The paths of all values in a tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    below = [leaf for key, value in pairs for leaf in leaves(value, (*path, key))]
    return [*([path] if path else []), *below]


VALUES = st.recursive(
    st.one_of(st.integers(-9, 9), st.booleans(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_every_value_of_any_document_has_a_line(tree: dict[str, Any]) -> None:
    """Whatever TOML a library writes, each of its values is found, within the text and not before its parent."""
    text = tomlkit.dumps(tree)
    lines = Lines(text)
    parsed = tomllib.loads(text)
    for path in leaves(parsed):
        line = lines.of(path)
        assert 1 <= line <= text.count("\n") + 1
        assert line >= lines.of(path[:-1])
        assert lines.written(path)


@example("a=[}")  # once an endless array of nothing
@given(st.text(alphabet="ab=.[]{}\"'#\n\\, ", max_size=40))
def test_no_text_stops_the_scanner(text: str) -> None:
    """On what is not TOML it ends with whatever it found, and never raises."""
    lines = Lines(text)
    assert lines.of(("a",)) <= text.count("\n") + 1
