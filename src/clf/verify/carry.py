# SPDX-License-Identifier: Apache-2.0
"""Collateral carried from one machine to another: what may come in, what it changes, and what a bundle says.

An import is judged as a fetch is: signed up to the trusted root, valid now, not older than what was seen before or is
held. It is all or nothing, so that a person who reads one refusal knows that nothing was changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clf import limits
from clf.errors import ClfError, CollateralError
from clf.verify.bundle import Kept, Key, describe, read_bundle
from clf.verify.chains import common_name
from clf.verify.collateral import check_age, check_period, check_signatures
from clf.verify.fetch import FolderSource
from clf.verify.marks import Marks, MemoryMarks, check_newer
from clf.verify.store import CollateralStore
from clf.verify.trust import INTEL_ROOT_KEY_ID, TrustRoot, key_id


@dataclass(frozen=True)
class Change:
    """What an import does to one platform model: `before` is what was held, if anything."""

    kept: Kept
    before: Kept | None

    @property
    def kind(self) -> Literal["new", "newer", "unchanged"]:
        """In a word."""
        if self.before is None:
            return "new"
        return "unchanged" if self.before.collateral == self.kept.collateral else "newer"


@dataclass(frozen=True)
class Judge:
    """By whose root, when and how strictly collateral is judged. `now` in seconds since the epoch."""

    trust: TrustRoot
    now: float
    marks: Marks
    max_age_seconds: float | None = None

    def check(self, kept: Kept) -> None:
        """Raises CollateralError whose message names the platform model."""
        try:
            check_period(kept.collateral, self.now)
            check_signatures(kept.collateral, self.trust, self.now)
            check_age(kept.collateral, self.now, self.max_age_seconds)
            self.marks.check(kept.collateral.facts)
        except CollateralError as error:
            raise _of(kept.key, error) from None


class Shelf:
    """A folder of collateral files, one for each platform model: an owner's own, or the one that its server fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = CollateralStore(folder)

    def all(self) -> list[Kept]:
        """What is there, unverified; of several for one platform model, the one that would be used."""
        if not self.folder.is_dir():
            return []
        source = FolderSource(self.folder)
        keys = sorted({kept.key for kept in source.all()})
        latest = {key: source.fetch(*key) for key in keys}
        fetched = {key: max(kept.fetched for kept in source.all() if kept.key == key) for key in keys}
        return [Kept(latest[key], fetched[key]) for key in keys]

    def take(self, items: Iterable[Kept], judge: Judge) -> list[Change]:
        """Put collateral here, all of it or none. Raises CollateralError and changes nothing if any of it may not come.

        It counts as fetched now, so that servers which share the folder prefer it to what they hold.
        """
        held = {kept.key: kept for kept in self.all()}
        changes = []
        for item in items:
            judge.check(item)
            change = Change(Kept(item.collateral, judge.now), held.get(item.key))
            if change.before is not None:
                try:
                    check_newer(item.collateral.facts, change.before.collateral.facts)
                except CollateralError as error:
                    raise _of(item.key, error) from None
            changes.append(change)
        for change in changes:
            if change.kind != "unchanged":
                with self._store.fetching(change.kept.key, limits.COLLATERAL_TOTAL_SECONDS):
                    self._store.save(change.kept)
        return changes


def read_file(path: Path) -> list[Kept]:
    """What a bundle file holds, unverified. Raises CollateralError."""
    try:
        with path.open("rb") as file:
            return list(read_bundle(file.read(limits.COLLATERAL_EXPORT_BYTES + 1)))
    except OSError as error:
        raise CollateralError(
            f"{path} cannot be read: {error.strerror}", code="collateral_file", remedy="name an existing file"
        ) from None


def summary(kept: Kept, judge: Judge) -> dict[str, Any]:
    """What collateral says of itself, whether it holds, and if not why; JSON, times in seconds since the epoch."""
    facts = kept.collateral.facts
    signer = kept.collateral.signer_chains[0]
    root = key_id(signer[-1]) if signer else ""
    found: dict[str, Any] = {
        "tee": facts.tee,
        "fmspc": facts.fmspc,
        "pck_ca": facts.pck_ca,
        "holds": True,
        "code": "",
        "reason": "",
        "root": "intel" if root == INTEL_ROOT_KEY_ID else "trusted" if root == judge.trust.key_id else "unknown",
        "signer": common_name(signer[0].subject) if signer else "",
        "tcb_evaluation_number": facts.tcb_eval_number,
        "qe_evaluation_number": facts.qe_eval_number,
        "parts": [{"name": part.name, "issued": part.issued, "expires": part.expires} for part in facts.parts],
        "begins": facts.begins,
        "issued": facts.issued,
        "expires": facts.expires,
        "fetched": int(kept.fetched) or None,
    }
    if found["root"] == "trusted" and judge.trust.kind == "simulation":
        found["root"] = "simulation"
    try:
        judge.check(kept)
    except ClfError as error:
        found.update(holds=False, code=error.code, reason=error.message)
    return found


def no_marks() -> Marks:
    """Where nothing was seen before."""
    return MemoryMarks()


def _of(key: Key, error: CollateralError) -> CollateralError:
    return CollateralError(f"{describe(key)}: {error.message}", code=error.code, remedy=error.remedy)
