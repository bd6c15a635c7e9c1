# SPDX-License-Identifier: Apache-2.0
"""Shows on standard error how a program's inputs come and its outputs go: a bar on a terminal, a line for each else."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn


class StagingReport:
    """See clf.app.staging.Report."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def begins(self, what: str, size: int) -> None:
        """See Report."""
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
            self._bar = Progress(*columns, TransferSpeedColumn(), console=self._console, transient=True)
            self._task = self._bar.add_task(what, total=size)
            self._bar.start()

    def moved(self, count: int) -> None:
        """See Report."""
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def ends(self, done: str) -> None:
        """See Report."""
        self.close()
        self.says(done)

    def says(self, text: str) -> None:
        """See Report."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Nothing moves any more."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
