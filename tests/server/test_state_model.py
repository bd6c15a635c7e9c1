# SPDX-License-Identifier: Apache-2.0
"""The state store against a model of a few dictionaries, over random histories with reopening in between."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from clf.server.state import ENDED_STATES, LimitReached, StateStore, Transfer, Usage
from clf.server.state_url import StateUrl
from tests.postgresql import Postgresql

_IDS = st.sampled_from([f"t{number}" for number in range(8)])
_GRANTS = st.sampled_from(["g", "h"])
_LIMITS = st.none() | st.integers(0, 12)


class StateMachine(RuleBasedStateMachine):
    """Every call goes to the store and to the model; both must agree on its answer and on all counters."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.place = self.new_place()
        self.store = StateStore.open(self.place, "simulation")
        self.rows: dict[str, dict[str, object]] = {}
        self.runs: dict[str, set[bytes]] = {"g": set(), "h": set()}
        self.bytes: dict[str, int] = {"g": 0, "h": 0}
        self.results: dict[str, int] = {}
        self.collected: set[str] = set()

    def new_place(self) -> Path | StateUrl:
        """Where the store of this history is."""
        return self.folder / "state.db"

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def _open(self) -> list[str]:
        return [name for name, known in self.rows.items() if known["state"] == "open"]

    def _stored(self) -> int:
        kept = sum(size for name, size in self.results.items() if name not in self.collected)
        return kept + sum(int(str(self.rows[name]["received"])) for name in self._open())

    @rule(
        name=_IDS,
        grant=_GRANTS,
        run=st.integers(0, 3),
        charged=st.integers(0, 5),
        max_runs=_LIMITS,
        max_bytes=_LIMITS,
        max_open=st.integers(0, 8),
    )
    def reserve(  # noqa: PLR0917 - hypothesis passes them by name
        self, name: str, grant: str, run: int, charged: int, max_runs: int | None, max_bytes: int | None, max_open: int
    ) -> None:
        """A reservation is stored and charged, or known already, or refused without a trace."""
        made = Transfer(
            id=name,
            run=bytes([run]) * 16,
            grant=grant,
            enclave="e",
            action="write",
            created=0.0,
            expires=1e9,
            touched=0.0,
            declared_size=20,
            charged_bytes=charged,
        )
        refused = None
        if name not in self.rows:
            is_new = made.run not in self.runs[grant]
            if len(self._open()) >= max_open:
                refused = "open"
            elif is_new and max_runs is not None and len(self.runs[grant]) >= max_runs:
                refused = "runs"
            elif charged and max_bytes is not None and self.bytes[grant] + charged > max_bytes:
                refused = "bytes"
            else:
                self.runs[grant].add(made.run)
                self.bytes[grant] += charged
                self.rows[name] = {"state": "open", "received": 0, "grant": grant}
        found = None
        try:
            self.store.reserve(made, max_runs, max_bytes, max_open)
        except LimitReached as error:
            found = error.which
        assert found == refused

    @rule(name=_IDS, state=st.sampled_from(ENDED_STATES))
    def end(self, name: str, state: str) -> None:
        """Only an open transfer ends."""
        expected = name in self._open()
        assert self.store.end(name, state, "r", 1.0) == expected  # type: ignore[arg-type]
        if expected:
            self.rows[name]["state"] = state

    @rule(name=_IDS, old=st.integers(0, 20), more=st.integers(0, 25), quota=_LIMITS)
    def advance(self, name: str, old: int, more: int, quota: int | None) -> None:
        """The offset moves only from where it is, within declared size and quota."""
        known = self.rows.get(name)
        outcome: object = True
        if known is None or known["state"] != "open" or known["received"] != old:
            outcome = False
        elif old + more > 20:
            outcome = "size"
        elif quota is not None and self._stored() + more > quota:
            outcome = "quota"
        try:
            found: object = self.store.advance(name, old, old + more, quota)
        except LimitReached as error:
            found = error.which
        assert found == outcome
        if outcome is True and known is not None:
            known["received"] = old + more

    @rule(name=_IDS, max_bytes=_LIMITS)
    def commit(self, name: str, max_bytes: int | None) -> None:
        """A commit charges once, keeps its receipt, and fails without a trace beyond the limit."""
        known = self.rows.get(name)
        size = 0 if known is None else int(str(known["received"]))
        grant = "g" if known is None else str(known["grant"])
        is_over = max_bytes is not None and self.bytes[grant] + size > max_bytes
        try:
            done = self.store.commit(
                name, path=name, size=size, sha256="", receipt=b"r", grant=grant, max_bytes=max_bytes, now=2.0
            )
        except LimitReached:
            assert is_over
            assert known is not None
            assert known["state"] == "open"
            return
        if known is None or known["state"] not in ("open", "committed"):
            assert done is None
            return
        assert done is not None
        assert done.receipt == b"r"
        if known["state"] == "open":
            assert not is_over
            known["state"] = "committed"
            self.bytes[grant] += size
            self.results[name] = size

    @rule(name=_IDS)
    def collect(self, name: str) -> None:
        """A result is collected once."""
        expected = name in self.results and name not in self.collected
        assert self.store.mark_collected(name, 3.0) == expected
        if expected:
            self.collected.add(name)

    @rule()
    def reopen(self) -> None:
        """Closing and opening again loses nothing."""
        self.store.close()
        self.store = StateStore.open(self.place, "simulation")

    @invariant()
    def agree(self) -> None:
        """Counters, states and sums are those of the model."""
        for grant in ("g", "h"):
            assert self.store.usage(grant) == Usage(len(self.runs[grant]), self.bytes[grant])
        assert {transfer.id for transfer in self.store.list_open()} == set(self._open())
        assert self.store.stored_bytes() == self._stored()
        assert {result.id: result.size for result in self.store.results()} == self.results
        for name, known in self.rows.items():
            stored = self.store.get(name)
            assert stored is not None
            assert (stored.state, stored.received) == (known["state"], known["received"])


TestStateModel = StateMachine.TestCase
TestStateModel.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_the_model_in_postgresql(postgresql_server: Postgresql) -> None:
    """The same histories, fewer of them, in a database that servers share."""

    class InPostgresql(StateMachine):
        def new_place(self) -> Path | StateUrl:
            return postgresql_server.place()

    run_state_machine_as_test(
        InPostgresql,
        settings=settings(
            max_examples=6, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
