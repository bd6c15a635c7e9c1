# SPDX-License-Identifier: Apache-2.0
"""What more worker processes bring: attested transfers a second with 1, 2, 4 and 8 of them, on the cores there are."""

from __future__ import annotations

from typing import Final

from benchmarks import machine
from benchmarks.harness import Result, in_turn, median, spread
from benchmarks.opening import storm
from benchmarks.setting import Bench

WORKERS: Final = (1, 2, 4, 8)


def growth(bench: Bench) -> list[Result]:
    """Opens per second and per CPU second of the server, for each number of workers; all cores for everybody.

    The clients take as much CPU as the server, so on two cores the rate says little; that the cost of one transfer does
    not rise with the number of workers says that they do not stand in each other's way.
    """
    span = bench.rounds(3, 10)
    costs: dict[int, list[float]] = {count: [] for count in WORKERS}

    def rate(workers: int) -> float:
        bench.restart(workers=workers, cores=machine.ALL)
        storm(bench, 0.5)
        opened, wall, cpu = storm(bench, span)
        costs[workers].append(1000 * cpu / opened)
        return opened / wall

    try:
        with machine.on(machine.ALL):
            rates = in_turn(*[lambda count=count: rate(count) for count in WORKERS], rounds=bench.rounds(1, 4))
    finally:
        bench.restart(workers=1, cores=machine.SERVER)
    medians = {count: median(values) for count, values in zip(WORKERS, rates, strict=True)}
    return [
        Result(
            name="growth",
            what="attested transfers a second, 64 clients, 2 workers",
            reference_is="1 worker",
            ours=medians[2],
            spread=spread(rates[1]),
            reference=medians[1],
            unit="/s",
            better="higher",
            placement=machine.SHARED,
            notes={
                "opened_per_second": {str(count): value for count, value in medians.items()},
                "cpu_ms_each": {str(count): median(values[1:] or values) for count, values in costs.items()},
            },
        )
    ]
