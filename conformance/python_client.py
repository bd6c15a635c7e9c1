# SPDX-License-Identifier: Apache-2.0
"""The Python client behind the command line of README.md: as thin as it can be."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import clf
from clf.client.owner import Owner
from conformance.python_vectors import run_vector

PIECE_BYTES = 1024 * 1024


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _get(owner: Owner, path: str, target: str) -> None:
    with owner.open(path) as reader, Path(target).open("wb") as file:
        shutil.copyfileobj(reader, file, PIECE_BYTES)


def _range(owner: Owner, path: str, offset: str, length: str) -> None:
    sys.stdout.buffer.write(owner.read_bytes(path, offset=int(offset), length=int(length)))


def _reads(owner: Owner, path: str, count: str, size: str) -> None:
    step = int(size)
    digest = hashlib.sha256()
    with owner.open(path) as reader:
        for number in range(int(count)):
            reader.seek((number * 7919 * step) % (reader.size - step + 1))
            digest.update(reader.read(step))
    _print({"sha256": digest.hexdigest()})


def _list(owner: Owner, folder: str) -> None:
    for entry in owner.list(folder):
        _print({"path": entry.path, "size": entry.size, "etag": entry.etag, "modified": entry.modified})


def _folder(owner: Owner, folder: str, target: str) -> None:
    with owner.open_folder(folder) as opened:
        for entry in opened:
            file = Path(target, entry.path)
            file.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(entry) as reader, file.open("wb") as output:
                shutil.copyfileobj(reader, output, PIECE_BYTES)


def _put(owner: Owner, source: str, path: str) -> None:
    with Path(source).open("rb") as file, owner.create(path) as writer:
        shutil.copyfileobj(file, writer, PIECE_BYTES)
    receipt = writer.receipt
    if receipt is None:
        raise clf.ClfError("no receipt")
    _print(
        {"id": receipt.id, "size": receipt.size, "sha256": receipt.sha256, "committed": receipt.committed},
    )


def _abort(owner: Owner, source: str, path: str) -> None:
    writer = owner.create(path)
    with Path(source).open("rb") as file:
        shutil.copyfileobj(file, writer, PIECE_BYTES)
    writer.abort()
    writer.close()


def _key(owner: Owner, name: str) -> None:
    sys.stdout.buffer.write(owner.key(name))


def _many(owner: Owner, path: str, count: str) -> None:
    def digest(_number: int) -> str:
        with owner.open(path) as reader:
            return _digest(reader)

    with ThreadPoolExecutor(int(count)) as pool:
        digests = set(pool.map(digest, range(int(count))))
    if len(digests) != 1:
        raise clf.ClfError(f"{len(digests)} different contents")
    _print({"sha256": digests.pop()})


def _digest(reader: clf.Reader) -> str:
    found = hashlib.sha256()
    while data := reader.read(PIECE_BYTES):
        found.update(data)
    return found.hexdigest()


COMMANDS: dict[str, tuple[Callable[..., None], int]] = {
    "get": (_get, 2),
    "range": (_range, 3),
    "reads": (_reads, 3),
    "list": (_list, 1),
    "folder": (_folder, 2),
    "put": (_put, 2),
    "abort": (_abort, 2),
    "key": (_key, 1),
    "many": (_many, 2),
}


def _joined(words: list[str]) -> list[str]:
    """`--option value` as `--option=value`, for argparse: a thumbprint may begin with a dash, and a path, too."""
    options: list[str] = []
    while words and words[0].startswith("--") and len(words) > 1:
        options.append(f"{words[0]}={words[1]}")
        words = words[2:]
    return [*options, *words[:1], "--", *words[1:]] if words else options


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conformance/clients/python")
    parser.add_argument("--url")
    parser.add_argument("--ca")
    parser.add_argument("--identity")
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("command", choices=[*COMMANDS, "vector"])
    parser.add_argument("words", nargs="*")
    given = parser.parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    if given.command == "vector":
        for name in given.words:
            _print(run_vector(json.loads(Path(name).read_text(encoding="utf-8"))))
        return 0
    run, count = COMMANDS[given.command]
    if len(given.words) != count:
        parser.error(f"{given.command} takes {count} arguments")
    try:
        with clf.connect(given.url, ca=given.ca, identity=given.identity, timeout=given.timeout) as owner:
            run(owner, *given.words)
    except clf.ClfError as error:
        sys.stderr.write(json.dumps({"code": error.code, "message": str(error)}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
