# SPDX-License-Identifier: Apache-2.0
"""Whether the state counts everything that the audit log says was released, and counting what it does not.

A release is counted in the state first, then written into the log. So a log that shows more than the state counts means
that an older copy of the state was put back, and with it runs and bytes that were used up before. A server that starts
compares the two and does not serve then; `clf server recount` and `restore` count from the log what is missing.

The state remembers up to which entry it was compared (`audit_mark`), so only what came after is read. A log that ends
before that entry was cut off or replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from clf.errors import AuditError, ConfigError, StateError
from clf.server.audit_entry import Entry
from clf.server.audit_store import AuditReader, AuditWriter, reader_of
from clf.server.state import Charge, StateStore

_CHARGED: Final = ("read",)
"""Actions that are charged when they are opened; a write is when it is committed, a list or key never."""


def charges(entries: Iterable[Entry]) -> list[Charge]:
    """What entries of the log say was charged."""
    found: dict[tuple[str, str], Charge] = {}
    taken_back: set[str] = set()
    for entry in entries:
        fields = entry.fields
        transfer = fields.get("transfer")
        if not isinstance(transfer, str):
            continue
        # A crash may have come between the counters and the entry of the release: then the replay's is the only one.
        if fields["event"] == "released" or (fields["event"] == "replayed" and "run" in fields):
            found.setdefault(("transfer", transfer), _charge(entry, "transfer"))
        elif fields["event"] == "committed":
            found[("result", transfer)] = _charge(entry, "result")
        elif fields["event"] == "recovered" and "grant" in fields:
            found.setdefault(("result", transfer), _charge(entry, "result"))
            taken_back.add(transfer)
        elif fields["event"] == "commit_refused" and transfer in taken_back:  # its name was taken meanwhile
            found.pop(("result", transfer), None)
    return list(found.values())


def _charge(entry: Entry, kind: Any) -> Charge:
    fields = entry.fields
    try:
        action = str(fields["action"])
        charged = int(fields.get("bytes", 0)) if kind == "result" or action in _CHARGED else 0
        return Charge(
            n=entry.n,
            kind=kind,
            transfer=fields["transfer"],
            run=bytes.fromhex(fields["run"]),
            grant=str(fields["grant"]),
            enclave=str(fields.get("enclave", "")),
            action=action,
            path=str(fields.get("path", "")),
            time=datetime.fromisoformat(str(fields["time"])).timestamp(),
            bytes=charged,
            sha256=str(fields.get("sha256", "")),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise AuditError(f"entry {entry.n} does not say what was charged: {error}", code="audit_damaged") from error


def uncounted(state: StateStore, log: AuditReader | Path) -> list[Charge]:
    """What the log shows, after the state's mark, and the state does not count."""
    return [charge for charge in charges(reader_of(log).entries_after(state.audit_mark())) if not state.counts(charge)]


def lost(state: StateStore, log: AuditReader | Path) -> tuple[int, int] | None:
    """The first and last entry that came after the state's mark and were taken out of the log since, if any were.

    Whoever takes entries out compares first (`clf audit archive`), so only an older copy of the state is behind them.
    """
    while True:
        mark = state.audit_mark()
        first = next(iter(reader_of(log).entries_after(mark)), None)
        if first is None or first.n <= mark + 1:
            return None
        if state.audit_mark() == mark:  # else entries were taken out between the two looks
            return mark + 1, first.n - 1


def check(state: StateStore, audit: AuditWriter, log: AuditReader | Path) -> None:
    """Refuse a state that counts less than the log shows, or a log that lacks what the state does not know of.

    Other servers of the same state may be serving meanwhile.
    """
    mark = state.audit_mark()  # first: another server may move it on, once it has written what it speaks of
    last = audit.last().n
    if last < mark:
        raise AuditError(
            f"the audit log in {reader_of(log).place} ends at entry {last}, and entry {mark} was there before",
            code="audit_damaged",
            remedy="put the log back, or see clf server recount --help",
        )
    gone = lost(state, log)
    if gone is not None:
        raise StateError(
            f"the state counts what the audit log shows up to entry {gone[0] - 1}, and entries {gone[0]} to {gone[1]} "
            "were taken out of it since: an older copy of the state was put back",
            code="state_rolled_back",
            remedy="put the newer state back; or restore a backup with --used-up; or see clf server recount",
        )
    missing = uncounted(state, log)
    if missing:
        raise StateError(
            f"the audit log shows {len(missing)} releases (entries {missing[0].n} to {missing[-1].n}) that the state "
            "does not count: an older copy of the state was put back",
            code="state_rolled_back",
            remedy="clf server recount counts them; only then start the server",
        )
    state.set_audit_mark(last)


def lost_log_sentence(last: int, mark: int) -> str:
    """What an owner has to write out to go on with a log that lacks entries."""
    return f"I accept that entries {last + 1} to {mark} are missing from the audit log"


def recount(state: StateStore, audit: AuditWriter, log: AuditReader | Path, *, accept: str | None = None) -> int:
    """Count what the log shows and the state does not; returns how much that was. Says so in the log first.

    Where the log ends before what the state knows of, or lacks entries that the state does not know of, `accept` must
    be `lost_log_sentence`, else ConfigError is raised.
    """
    mark = state.audit_mark()
    last = audit.last().n
    if last < mark:
        sentence = lost_log_sentence(last, mark)
        if accept != sentence:
            raise ConfigError(
                f"the audit log ends at entry {last}, and entry {mark} was there before: what was released meanwhile "
                "can no longer be shown",
                field="accept",
                code="audit_damaged",
                remedy=f'put the log back, or say --accept "{sentence}"',
            )
        audit.append([{"event": "recounted", "count": 0, "first": last + 1, "last": mark, "reason": sentence}])
        state.set_audit_mark(last)
        return 0
    gone = lost(state, log)
    reason = "an older copy of the state was put back"
    if gone is not None:
        reason = lost_log_sentence(gone[0] - 1, gone[1])
        if accept != reason:
            raise ConfigError(
                f"the state counts what the audit log shows up to entry {gone[0] - 1}, and entries {gone[0]} to "
                f"{gone[1]} were taken out of it since: what they say was released cannot be counted any more",
                field="accept",
                code="state_rolled_back",
                remedy=f'put the newer state back; or restore a backup with --used-up; or say --accept "{reason}"',
            )
    missing = uncounted(state, log)
    numbers = [*(gone or ()), *(charge.n for charge in missing)]
    if numbers:
        what = {"count": len(missing), "first": numbers[0], "last": numbers[-1]}
        audit.append([{"event": "recounted", **what, "reason": reason}])
    for charge in missing:
        state.count(charge)
    state.set_audit_mark(last)
    return len(missing)
