# SPDX-License-Identifier: Apache-2.0
"""Listings and folders."""

from __future__ import annotations

import json
from pathlib import Path

from conformance.cases.base import Collected, scratch
from conformance.client import Client, expect
from conformance.stage import MANY_COUNT, UNICODE, Stage, place, same

CASES = Collected()


def _listed(stage: Stage, client: Client, folder: str) -> list[dict[str, object]]:
    outcome = client.run(place(stage.hospital), "list", folder).ok(quotes=1)
    lines = outcome.stdout.decode("utf-8").split("\n")
    expect(lines.pop() == "", "list: the last line does not end")
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        expect(set(entry) == {"path", "size", "etag", "modified"}, f"list: {entry}")
    return entries


@CASES
def list_folder(stage: Stage, client: Client) -> None:
    """Every file below a folder, sorted, with size, version and time."""
    owner = stage.hospital
    entries = _listed(stage, client, "many/")
    files = {str(path.relative_to(owner.data)): path.stat() for path in (owner.data / "many").rglob("*.png")}
    expect(len(entries) == MANY_COUNT, f"list: {len(entries)} entries")
    expect([entry["path"] for entry in entries] == sorted(files, key=str.encode), "list: other names or order")
    for entry in entries:
        stat = files[str(entry["path"])]
        expect(entry["size"] == stat.st_size, f"list: {entry}")
        expect(entry["modified"] == int(stat.st_mtime), f"list: {entry}, modified {stat.st_mtime}")


@CASES
def list_unicode(stage: Stage, client: Client) -> None:
    """Names beyond ASCII in a listing."""
    entries = _listed(stage, client, "données/")
    expect([entry["path"] for entry in entries] == [UNICODE], f"list: {entries}")


@CASES
def list_everything(stage: Stage, client: Client) -> None:
    """`/` is the owner's whole folder."""
    owner = stage.hospital
    files = [str(path.relative_to(owner.data)) for path in owner.data.rglob("*") if path.is_file()]
    expect(
        [entry["path"] for entry in _listed(stage, client, "/")] == sorted(files, key=str.encode), "list: other names"
    )


def _fetched(stage: Stage, client: Client, folder: str) -> None:
    owner = stage.hospital
    with scratch() as target:
        client.run(place(owner), "folder", folder, target).ok(quotes=1)
        found = {str(path.relative_to(target)): path for path in target.rglob("*") if path.is_file()}
        wanted = {
            str(path.relative_to(owner.data)): path for path in (owner.data / folder).rglob("*") if path.is_file()
        }
        expect(
            set(found) == set(wanted),
            f"folder: {len(found)} files such as {min(found, default='')!r} instead of {len(wanted)} such as "
            f"{min(wanted)!r} below OUTDIR",
        )
        for name, path in wanted.items():
            same(Path(found[name]).read_bytes(), path.read_bytes(), f"folder: {name}")


@CASES
def folder_of_many_small_files(stage: Stage, client: Client) -> None:
    """300 small files, some of them empty, in one transfer: one attestation."""
    _fetched(stage, client, "many/")


@CASES
def folder_unicode(stage: Stage, client: Client) -> None:
    """A folder with names beyond ASCII."""
    _fetched(stage, client, "données/")


@CASES
def folder_of_sizes(stage: Stage, client: Client) -> None:
    """Empty files, exact chunks and odd ends in one folder."""
    _fetched(stage, client, "sizes/")
