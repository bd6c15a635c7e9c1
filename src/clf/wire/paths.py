# SPDX-License-Identifier: Apache-2.0
"""The one grammar for names of files, and the globs that cover them (spec/protocol.md, section Paths).

Both sides check every name before they use it, so that what was granted, logged, encrypted and opened is one string.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from clf import limits
from clf.errors import WireError
from clf.wire.encoding import shown

ROOT = "/"
RESERVED_PREFIX = ".clf"
"""First segments that begin so belong to the server (staging of results)."""

# C0, DEL and C1 controls end lines in logs and terminals; U+2028 and U+2029 do so in some readers; a backslash
# separates names on some systems. None of them has a place in the name of a data file.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u2028\u2029\ud800-\udfff]")


class PathError(WireError):
    """A name that the path grammar refuses."""

    default_code = "malformed"


def _refuse(path: object, why: str) -> PathError:
    return PathError(f"path: {shown(path)}: {why}", remedy="names are relative, like 'patients/2024.csv'")


def check_path(path: object) -> str:
    """Return `path` unchanged if the grammar allows it; raises PathError.

    A trailing `/` means everything below a folder; `/` alone is the owner's whole folder.
    """
    if not isinstance(path, str):
        raise _refuse(path, "not a string")
    if path == ROOT:
        return path
    if not path:
        raise _refuse(path, "empty")
    found = _FORBIDDEN.search(path)
    if found:
        raise _refuse(path, "control character, backslash or lone surrogate")
    if len(path.encode("utf-8")) > limits.PATH_BYTES:
        raise _refuse(path, f"longer than {limits.PATH_BYTES} bytes")
    if path.startswith("/"):
        raise _refuse(path, "absolute names are not served")
    segments = path.removesuffix("/").split("/")
    for segment in segments:
        if segment in ("", ".", ".."):
            raise _refuse(path, f"segment {segment!r} is not a name")
        if len(segment.encode("utf-8")) > limits.SEGMENT_BYTES:
            raise _refuse(path, f"a segment is longer than {limits.SEGMENT_BYTES} bytes")
    if segments[0].startswith(RESERVED_PREFIX):
        raise _refuse(path, f"names that begin with {RESERVED_PREFIX!r} are reserved")
    return path


def check_file(path: object) -> str:
    """As check_path, for the name of one file."""
    name = check_path(path)
    if name.endswith("/"):
        raise _refuse(path, "names a folder where a file is meant")
    return name


def is_directory(path: str) -> bool:
    """Whether the name means everything below a folder."""
    return path.endswith("/")


def check_glob(glob: object) -> str:
    """Return `glob` unchanged if it is one; raises PathError.

    `*` and `?` stand for characters within a segment, `**` as a whole segment for any number of segments.
    """
    if not isinstance(glob, str):
        raise _refuse(glob, "not a string")
    if glob.endswith("/"):
        below = "**" if glob == ROOT else glob + "**"
        raise PathError(
            f"path: {shown(glob)}: a glob that ends in '/' covers nothing",
            remedy=f"write {shown(below)} to cover everything below",
        )
    check_path(glob)
    for segment in glob.split("/"):
        if "**" in segment and segment != "**":
            raise _refuse(glob, "'**' must be a whole segment")
    return glob


@lru_cache(maxsize=4096)
def _segment_pattern(segment: str) -> re.Pattern[str]:
    # The leftmost place of each fixed part is as good as any other, so each is an atomic group: without them a name
    # of 255 characters and a glob with a few stars keep the regular expression busy for minutes.
    first, *others = ("".join("." if char == "?" else re.escape(char) for char in part) for part in segment.split("*"))
    if not others:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>.*?{part})" for part in others[:-1])
    return re.compile(f"{first}{middle}.*{others[-1]}", re.DOTALL)


def _match(glob: tuple[str, ...], names: tuple[str, ...]) -> bool:
    # One row per glob segment, so that the cost is bounded by len(glob) * len(names) whatever the owner wrote.
    reached = [True] + [False] * len(names)
    for pattern in glob:
        if pattern == "**":
            seen = False
            row = []
            for here in reached:
                seen = seen or here
                row.append(seen)
        else:
            compiled = _segment_pattern(pattern)
            row = [False] + [reached[i] and compiled.fullmatch(name) is not None for i, name in enumerate(names)]
        reached = row
    return reached[-1]


def match_glob(glob: str, path: str) -> bool:
    """Whether one glob covers `path`.

    A folder (`images/`) is covered only by a glob that ends in `**` and matches the folder, so that whatever lies below
    is covered too: this can be decided without looking at any file. `images/**` does not cover a file named `images`.
    """
    segments = tuple(glob.split("/"))
    if not is_directory(path):
        last = ("**", "*") if segments[-1] == "**" else segments[-1:]
        return _match(segments[:-1] + last, tuple(path.split("/")))
    if segments[-1] != "**":
        return False
    names = tuple(part for part in path.split("/") if part)
    return _match(segments, names)


def covers(globs: Iterable[str], path: str) -> bool:
    """Whether any of the globs covers `path`."""
    return any(match_glob(glob, path) for glob in globs)
