# SPDX-License-Identifier: Apache-2.0
"""TOML files of people, read strictly: every mistake is a ConfigError with field, value, line and remedy.

Models derive from `Strict`: unknown keys are errors, nothing is converted ("8" is not 8, 1 is not true), and values
cannot be changed afterwards.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from clf import limits
from clf.errors import ConfigError
from clf.toml_lines import Lines
from clf.toml_lines import Path as TomlPath
from clf.wire.encoding import shown


class Strict(BaseModel):
    """A table whose keys are all known and whose values have exactly the declared type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


M = TypeVar("M", bound=Strict)

_NUL = re.compile(r"\\(u0000|U00000000)")

_WORDS = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "datetime_type": "must be a time like 2027-01-31T00:00:00Z, without quotes",
}


def read_file(path: Path) -> bytes:
    """The bytes of a configuration file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", remedy="is the path right, and may you read it?"
        ) from None
    if len(data) > limits.CONFIG_BYTES:
        raise ConfigError(f"{path} is longer than {limits.CONFIG_BYTES} bytes", remedy="is it the right file?")
    return data


def parse(data: bytes, model: type[M], name: str) -> tuple[M, Lines]:
    """Read TOML into `model`. `name` is the file's, for messages. Raises ConfigError with field and line."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}, line {line}: not UTF-8", line=line, remedy="save the file as UTF-8") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(name, str(error), text) from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply", remedy="write it as described in the comments") from None
    lines = Lines(text)
    if _NUL.search(text):
        _refuse_nul(tree, lines, name)
    try:
        return model.model_validate(tree), lines
    except ValidationError as error:
        raise _first(error, model=model, tree=tree, lines=lines, name=name) from None


def _refuse_nul(tree: dict[str, Any], lines: Lines, name: str) -> None:
    """No name, path, argument or variable of an operating system holds U+0000, which TOML can write as an escape."""
    rest: list[tuple[TomlPath, Any]] = [((), tree)]
    while rest:  # not recursive: dotted keys nest deeper than Python calls
        path, part = rest.pop()
        if isinstance(part, str) and "\0" in part:
            raise at(lines, path, name, "holds the character U+0000", remedy="remove it", value=part)
        for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
            if isinstance(key, str) and "\0" in key:
                raise at(lines, path, name, "has a key with the character U+0000", remedy="remove it", value=key)
            rest.append(((*path, key), value))


def at(lines: Lines, path: TomlPath, name: str, message: str, *, remedy: str = "", value: object = None) -> ConfigError:
    """A ConfigError for one place in the file."""
    line = lines.of(path)
    where = f"{name}, line {line}" if line else name
    given = "" if value is None else f" (written: {shown(value)})"
    return ConfigError(f"{where}: {dotted(path)}: {message}{given}", field=dotted(path), line=line, remedy=remedy)


def dotted(path: TomlPath) -> str:
    """A path as people write it: grant[0].paths."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def did_you_mean(word: str, known: list[str]) -> str:
    """A remedy for a word that is not one of `known`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are: {', '.join(sorted(known))}" if known else ""


def _syntax(name: str, text: str, source: str) -> ConfigError:
    """tomllib names line and column at the end of its message, or the end of the document."""
    what, _, place = text.partition(" (at ")
    digits = place.removeprefix("line ").split(",")[0]
    line = int(digits) if digits.isdigit() else source.count("\n") + 1
    return ConfigError(
        f"{name}, line {line}: not TOML: {what}", code="config_syntax", line=line, remedy="correct the line"
    )


def _first(
    error: ValidationError, *, model: type[Strict], tree: dict[str, Any], lines: Lines, name: str
) -> ConfigError:
    """The mistake that stands first in the file; what is missing altogether comes after what is written wrongly."""
    found = error.errors(include_url=False, include_context=True, include_input=False)

    places = [(_place(tree, tuple(item["loc"])), item) for item in found]

    def order(place: tuple[TomlPath, Any]) -> tuple[bool, int, int]:
        path, item = place
        return (item["type"] == "missing", lines.of(path), -len(path))

    path, item = min(places, key=order)
    # A table that lacks a key is also "not text" where text would do: what it lacks says more.
    below = [place for place in places if place[1]["type"] == "missing" and place[0][: len(path)] == path]
    path, item = below[0] if below and item["type"] != "missing" else (path, item)
    kind = item["type"]
    if kind == "extra_forbidden":
        known = list(fields_at(model, path[:-1]))
        return at(lines, path, name, "is not known here", remedy=did_you_mean(str(path[-1]), known))
    if kind == "missing":
        return at(lines, path, name, "is missing", remedy="write it; nothing is assumed")
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, RefusedError):
        return at(lines, path, name, str(cause), remedy=cause.remedy, value=_value(tree, path))
    kinds = dict.fromkeys(other["type"] for where, other in places if where == path)
    if len(kinds) > 1 and all(kind in _WORDS for kind in kinds):
        message = " or ".join(_WORDS[kind] for kind in kinds).replace(" or must be ", " or ")
    else:
        message = _WORDS.get(kind, item["msg"].replace("Input should", "must"))
    return at(lines, path, name, message, value=_value(tree, path))


def _place(tree: Any, loc: TomlPath) -> TomlPath:
    """Where in the file an error is: pydantic also names the alternatives of a union, which nobody has written."""
    path: TomlPath = ()
    for number, part in enumerate(loc):
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            missing = isinstance(tree, dict) and number == len(loc) - 1 and str(part).islower() and part != "str"
            if not missing:
                continue
            tree = None
        path = (*path, part)
    return path


class RefusedError(ValueError):
    """Raised by validators: what is wrong with the value, and the remedy."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


def _value(tree: Any, path: TomlPath) -> Any:
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return None if isinstance(tree, (dict, list)) else tree


def fields_at(model: type[Strict], path: TomlPath) -> dict[str, Any]:
    """The fields of the table at `path`, through lists, dictionaries and optional tables; empty if there is none."""
    kind: Any = model
    for part in path:
        table = _table(kind)
        if table is not None and isinstance(part, str):
            field = table.model_fields.get(part)
            kind = field.annotation if field else None
        else:
            kind = _element(kind)
    table = _table(kind)
    return dict(table.model_fields) if table else {}


def _table(kind: Any) -> type[Strict] | None:
    if isinstance(kind, type) and issubclass(kind, Strict):
        return kind
    if get_origin(kind) in (list, dict):
        return None
    tables = [found for found in map(_table, get_args(kind)) if found]
    return tables[0] if tables else None


def _element(kind: Any) -> Any:
    """What a list or dictionary holds, also inside an optional annotation."""
    if get_origin(kind) in (list, dict):
        return get_args(kind)[-1]
    found = [_element(part) for part in get_args(kind)]
    return next((part for part in found if part is not None), None)
