# SPDX-License-Identifier: Apache-2.0
"""At which line of a TOML file a value stands.

The standard reader keeps no positions, and an error without its line makes people search. This scanner reads only what
it needs for that (headers, keys, nesting) and is meant for text that `tomllib` has accepted: on anything else it may
give a wrong line, never a wrong value, because nobody reads values from it.
"""

from __future__ import annotations

import contextlib
import tomllib

Path = tuple[str | int, ...]
"""Keys, and indexes into arrays: ("grant", 0, "paths", 1)."""

_BARE_END = frozenset(" \t=.]\n\r#,}")


class Lines:
    """Line numbers (from 1) by path."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        self.headers: list[tuple[int, Path]] = []
        """Line and path of each table header, in the file's order."""
        self._text = text
        self._at = 0
        self._line = 1
        # The text may end where TOML does not, or nest beyond reason: what was found so far stands.
        with contextlib.suppress(IndexError, RecursionError):
            self._scan()

    def of(self, path: Path) -> int:
        """The line where `path` is written, or the nearest thing around it; 0 if nothing of it is in the file."""
        for end in range(len(path), 0, -1):
            line = self._lines.get(path[:end])
            if line is not None:
                return line
        return 0

    def written(self, path: Path) -> bool:
        """Whether exactly `path` is written in the file."""
        return path in self._lines

    def _note(self, path: Path) -> None:
        self._lines.setdefault(path, self._line)

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _step(self, count: int = 1) -> None:
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _blank(self, *, newlines: bool) -> None:
        """Skip spaces and comments, and ends of lines where they mean nothing."""
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif char in " \t" or (newlines and char in "\r\n"):
                self._step()
            else:
                return

    def _scan(self) -> None:
        prefix: Path = ()
        counts: dict[Path, int] = {}
        while True:
            self._blank(newlines=True)
            if self._at >= len(self._text):
                return
            if self._peek("["):
                many = self._peek("[[")
                self._step(2 if many else 1)
                line = self._line
                prefix = self._header(self._key(), many, counts)
                self.headers.append((line, prefix))
                self._step(2 if many else 1)
            else:
                self._pair(prefix)

    def _header(self, key: Path, many: bool, counts: dict[Path, int]) -> Path:
        """The path of a table header; a key that names an array of tables means its latest element."""
        path: Path = ()
        for number, part in enumerate(key):
            path = (*path, part)
            if path in counts and not (many and number == len(key) - 1):
                path = (*path, counts[path] - 1)
            self._note(path)
        if many:
            counts[path] = counts.get(path, 0) + 1
            path = (*path, counts[path] - 1)
            self._note(path)
        return path

    def _key(self) -> Path:
        parts: list[str] = []
        while True:
            self._blank(newlines=False)
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                parts.append(_unquote(self._text[start : self._at]))
            else:
                while self._text[self._at] not in _BARE_END:
                    self._step()
                parts.append(self._text[start : self._at])
            self._blank(newlines=False)
            if self._text[self._at] != ".":
                return tuple(parts)
            self._step()

    def _pair(self, prefix: Path) -> None:
        path = prefix
        line = self._line
        for part in self._key():
            path = (*path, part)
            self._lines.setdefault(path, line)
        self._blank(newlines=False)
        self._step()  # the equals sign
        self._blank(newlines=False)
        self._value(path)

    def _value(self, path: Path) -> None:
        char = self._text[self._at]
        if char in "\"'":
            self._string()
        elif char == "[":
            self._step()
            self._array(path)
        elif char == "{":
            self._step()
            while True:
                self._blank(newlines=True)
                if self._peek("}"):
                    return self._step()
                if self._peek(","):
                    self._step()
                else:
                    self._pair(path)
        else:
            while self._at < len(self._text) and self._text[self._at] not in ",]}\n\r#":
                self._step()
        return None

    def _array(self, path: Path) -> None:
        index = 0
        while True:
            self._blank(newlines=True)
            if self._peek("]"):
                return self._step()
            if self._peek(","):
                self._step()
            else:
                start = self._at
                self._note((*path, index))
                self._value((*path, index))
                if self._at == start:  # a brace where a value must be: no TOML, and no way on
                    raise IndexError
                index += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        if self._peek(quote * 3):
            end, escapes = quote * 3, quote == '"'
        else:
            end, escapes = quote, quote == '"'
        self._step(len(end))
        while not self._peek(end):
            if self._at >= len(self._text):
                raise IndexError
            self._step(2 if escapes and self._peek("\\") else 1)
        self._step(len(end))
        while len(end) == 3 and self._peek(quote):  # up to two quotes may stand before the closing three
            self._step()


def _unquote(text: str) -> str:
    try:
        return str(tomllib.loads(f"v = {text}")["v"])
    except tomllib.TOMLDecodeError:
        return text
