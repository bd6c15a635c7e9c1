# SPDX-License-Identifier: Apache-2.0
"""fsspec's own suite for file systems, over a real owner.

The suite writes what it then reads, and removes it. At an owner these are two sides, so here the owner's side follows:
what was published is copied into the folder that is served, and removing is done on its disk. What does not apply:

- `AbstractCopyTests`: copying on the server's side is not offered; nothing leaves an owner but to an attested app, and
  what comes back is a result.
- the last parts of `test_pipe_exclusive` and `test_put_directory_recursive`, which overwrite: results never overwrite
  one another, and that is what is tested there.
- empty folders: a folder is there when something is in it, which the suite allows for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.tests.abstract import (
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from clf.filesystem import ClfFileSystem
from tests.world import OwnerProcess

pytestmark = pytest.mark.usefixtures("app")


class OwnersSide:
    """What the suite does to prepare and to clean up, done by the owner on its own disk."""

    def __init__(self, owner: OwnerProcess, files: ClfFileSystem) -> None:
        self._owner = owner
        self._files = files

    def makedirs(self, _path: str) -> None:
        """Nothing: see ClfFileSystem.mkdir."""

    def touch(self, path: str) -> None:
        """An empty file."""
        self.pipe(path, b"")

    def pipe(self, path: str, value: bytes) -> None:
        """A file."""
        self._owner.put(path.partition("/")[2], value)
        self._files.invalidate_cache()


class Returning(ClfFileSystem):
    """clf://, to an owner who serves what was brought back."""

    owner: OwnerProcess

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """As always; once a result is published, the owner serves it."""
        file = super().open(path, mode, **options)
        if "r" not in mode:
            close = file.close

            def closing() -> None:
                close()
                self.publish()

            file.close = closing
        return file

    def publish(self) -> None:
        """The owner serves copies of all results."""
        for file in self.owner.results.rglob("*"):
            if file.is_file() and not file.relative_to(self.owner.results).parts[0].startswith(".clf"):
                target = self.owner.data / file.relative_to(self.owner.results)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        self.invalidate_cache()

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """The owner removes it."""
        del recursive, maxdepth
        for name in [path] if isinstance(path, str) else path:
            for folder in (self.owner.data, self.owner.results):
                target = folder / name.partition("/")[2]
                shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        self.invalidate_cache()


class Fixtures(AbstractFixtures):  # type: ignore[misc]
    """What the suite needs to know."""

    @pytest.fixture
    def fs(self, hospital: OwnerProcess) -> ClfFileSystem:
        """The file system under test."""
        files = Returning()
        files.owner = hospital
        return files

    @pytest.fixture
    def fs_path(self, hospital: OwnerProcess) -> Iterator[str]:
        """A folder at the owner."""
        yield "hospital-a/suite"
        for folder in (hospital.data, hospital.results):
            shutil.rmtree(folder / "suite", ignore_errors=True)

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        """As everywhere but on Windows."""
        return os.path.join

    @pytest.fixture
    def local_path(self, memory_folder: Path) -> str:
        """Plain copies are made in memory only."""
        return os.fspath(memory_folder)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        """See the module."""
        return False

    def _bulk_operations_scenario_0(self, some_fs: Any, some_join: Any, some_path: Any) -> Any:
        return super()._bulk_operations_scenario_0(owners_side(some_fs), some_join, some_path)

    def _glob_edge_cases_files(self, some_fs: Any, some_join: Any, some_path: Any) -> Any:
        return super()._glob_edge_cases_files(owners_side(some_fs), some_join, some_path)

    def _dir_and_file_with_same_name_prefix(self, some_fs: Any, some_join: Any, some_path: Any) -> Any:
        return super()._dir_and_file_with_same_name_prefix(owners_side(some_fs), some_join, some_path)

    def _10_files_with_hashed_names(self, some_fs: Any, some_join: Any, some_path: Any) -> Any:
        return super()._10_files_with_hashed_names(owners_side(some_fs), some_join, some_path)


def owners_side(some_fs: Any) -> Any:
    """Sources at the owner are its own files; local ones are as they are."""
    return OwnersSide(some_fs.owner, some_fs) if isinstance(some_fs, Returning) else some_fs


class TestGet(Fixtures, AbstractGetTests):  # type: ignore[misc]
    """Owner to memory."""


class TestPut(Fixtures, AbstractPutTests):  # type: ignore[misc]
    """Memory to owner."""

    def test_put_directory_recursive(  # noqa: PLR0917 - the suite's fixtures
        self, fs: Any, fs_join: Any, fs_target: str, local_fs: Any, local_join: Any, local_path: Any
    ) -> None:
        """Up to where the suite puts the same file a second time, which is refused."""
        with pytest.raises(FileExistsError, match="results/suite/target/file exists"):
            super().test_put_directory_recursive(fs, fs_join, fs_target, local_fs, local_join, local_path)
        assert fs.isfile(f"{fs_target}/file")


class TestOpen(Fixtures, AbstractOpenTests):  # type: ignore[misc]
    """Exclusive creation, which is the only one."""


class TestPipe(Fixtures, AbstractPipeTests):  # type: ignore[misc]
    """Exclusive creation of what is in memory."""

    def test_pipe_exclusive(self, fs: Any, fs_target: str) -> None:
        """Up to where the suite overwrites, which is refused."""
        with pytest.raises(FileExistsError):
            super().test_pipe_exclusive(fs, fs_target)
        assert fs.cat_file(fs_target) == b"data"
