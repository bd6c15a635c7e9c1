# SPDX-License-Identifier: Apache-2.0
"""Nothing plain reaches a host's disk: caches, copies and spills are refused there, and let be in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask
import duckdb
import fsspec
import pytest
from fsspec.implementations.cached import CachingFileSystem, SimpleCacheFileSystem, WholeFileCacheFileSystem

import clf.filesystem
from clf.errors import ClfError, ConfigError
from clf.filesystem import ExposedError, NotOfferedError
from tests.world import OwnerProcess

pytestmark = pytest.mark.usefixtures("app")
SECRET = b"the patient's name and more\n" * 1000
PATH = "clf://hospital-a/secret.csv"


@pytest.fixture(scope="module", autouse=True)
def files(hospital: OwnerProcess) -> None:
    """One file."""
    hospital.put("secret.csv", SECRET)


def nothing_below(folder: Path) -> None:
    """No file of the folder holds anything of the secret."""
    for file in folder.rglob("*"):
        assert not file.is_file() or b"patient" not in file.read_bytes()


@pytest.mark.parametrize("cache", ["simplecache", "filecache", "blockcache"])
@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_caches_on_a_disk_are_refused(cache: str, mode: str, tmp_path: Path) -> None:
    """fsspec's caching file systems in front of clf://, reading and writing, wherever they are told to cache."""
    path = PATH if mode == "rb" else "clf://hospital-a/guarded.csv"
    for options in ({}, {cache: {"cache_storage": str(tmp_path / "cache")}}):
        with pytest.raises(ExposedError, match="keep plain copies") as caught:
            fsspec.open(f"{cache}::{path}", mode, **options).open()
        assert "in memory" in caught.value.remedy
    nothing_below(tmp_path)


@pytest.mark.parametrize("kind", [CachingFileSystem, SimpleCacheFileSystem, WholeFileCacheFileSystem])
def test_a_cache_around_a_given_file_system_is_refused(kind: type, tmp_path: Path) -> None:
    """Also where the file system is made first."""
    made = fsspec.filesystem("clf")
    with pytest.raises(ExposedError):
        kind(fs=made, cache_storage=str(tmp_path))


@pytest.mark.filterwarnings("ignore:unclosed file <_io:ResourceWarning")  # fsspec's MMapCache leaves its file open
@pytest.mark.parametrize("cache", ["simplecache", "filecache", "blockcache"])
def test_caches_in_memory_work(cache: str, memory_folder: Path) -> None:
    """A cache in memory is the app's own affair."""
    place = str(memory_folder / "cache")
    with fsspec.open(f"{cache}::{PATH}", **{cache: {"cache_storage": place}}) as file:
        assert file.read() == SECRET


@pytest.mark.filterwarnings("ignore:unclosed file <_io:ResourceWarning")
def test_a_cache_of_one_file_on_a_disk_is_refused(
    tmp_path: Path, memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cache_type="mmap"` caches in a file, by default in TMPDIR."""
    made = fsspec.filesystem("clf")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ExposedError):
        made.open(PATH, cache_type="mmap")
    monkeypatch.setattr("tempfile.tempdir", str(memory_folder))
    with made.open(PATH, cache_type="mmap") as file:
        assert file.read(100) == SECRET[:100]


def test_copies_to_a_disk_are_refused(tmp_path: Path, memory_folder: Path) -> None:
    """get, get_file and download, to a name and to an open file."""
    made = fsspec.filesystem("clf")
    for call in (made.get, made.get_file, made.download):
        with pytest.raises(ExposedError, match="copied out"):
            call(PATH, str(tmp_path / "copy"))
    with (tmp_path / "open").open("wb") as file, pytest.raises(ExposedError):
        made.get_file(PATH, file)
    nothing_below(tmp_path)
    made.get(PATH, str(memory_folder / "copy"))
    assert (memory_folder / "copy").read_bytes() == SECRET


# --- DuckDB -------------------------------------------------------------------------------------------


def test_duckdb_unconfined_is_refused() -> None:
    """A connection that may spill to a disk does not get the file system, by either of DuckDB's functions."""
    with duckdb.connect() as connection:
        for register in (
            connection.register_filesystem,
            lambda files: duckdb.register_filesystem(files, connection=connection),
        ):
            with pytest.raises(ExposedError, match="confine_duckdb"):
                register(fsspec.filesystem("clf"))
        with duckdb.connect() as other:
            confined = clf.filesystem.confine_duckdb(other)
        with pytest.raises(ExposedError):
            connection.register_filesystem(confined)


def test_duckdb_on_a_disk_is_refused(tmp_path: Path) -> None:
    """A database that is a file, and a folder to spill into that is on a disk."""
    with duckdb.connect(tmp_path / "data.db") as connection, pytest.raises(ExposedError, match="is a file"):
        clf.filesystem.confine_duckdb(connection)
    with duckdb.connect() as connection, pytest.raises(ExposedError, match="spill"):
        clf.filesystem.confine_duckdb(connection, spill=tmp_path)
    with duckdb.connect() as connection:
        connection.execute("SET lock_configuration = true")
        with pytest.raises(ConfigError, match="confined"):
            clf.filesystem.confine_duckdb(connection)


def test_a_confined_connection_stays_so(tmp_path: Path, memory_folder: Path) -> None:
    """It writes no local file, opens no database, and neither its spill nor anything else can be changed back."""
    with duckdb.connect() as connection:
        clf.filesystem.confine_duckdb(connection, spill=memory_folder, memory_limit="100MB")
        connection.execute(f"CREATE TABLE t AS SELECT * FROM '{PATH}'")
        for query in (
            f"COPY t TO '{tmp_path}/copy.csv'",
            f"EXPORT DATABASE '{tmp_path}/all'",
            f"ATTACH '{tmp_path}/data.db'",
            f"SELECT * FROM '{__file__}'",
            f"SET temp_directory = '{tmp_path}'",
            "SET enable_external_access = true",
            "RESET temp_directory",
            "INSTALL httpfs",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(query)
    assert list(tmp_path.iterdir()) == []


def test_duckdb_spills_into_memory(memory_folder: Path) -> None:
    """More than its memory: it spills, and where it was told to."""
    with duckdb.connect() as connection:
        clf.filesystem.confine_duckdb(connection, spill=memory_folder, memory_limit="60MB")
        rows = connection.execute(
            "SELECT count(*) FROM (SELECT md5(i::VARCHAR) AS m FROM range(3_000_000) t(i) ORDER BY m)"
        ).fetchall()
        assert rows == [(3_000_000,)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_copy_that_fails_publishes_nothing(hospital: OwnerProcess, kind: str) -> None:
    """DuckDB closes the file of a failed COPY as it closes that of a good one."""
    query = (
        f"COPY (SELECT CASE WHEN i < 90000 THEN i ELSE error('no') END AS i FROM range(100000) t(i)) TO '{{}}.{kind}'"
    )
    with duckdb.connect() as connection:
        files = clf.filesystem.confine_duckdb(connection)
        with pytest.raises(duckdb.Error, match="no"), files.transaction:
            connection.execute(query.format("clf://hospital-a/failed"))
        # Outside of a transaction nobody could tell.
        with pytest.raises(duckdb.Error, match="transaction"):
            connection.execute(f"COPY (SELECT 1) TO 'clf://hospital-a/failed.{kind}'")
    assert not (hospital.results / f"failed.{kind}").exists()


def test_a_file_system_from_before_duckdb_is_refused(app: None) -> None:
    """It may have been registered before anybody looked, so it reads nothing more; a new one does."""
    del app
    code = f"""
import fsspec
files = fsspec.filesystem("clf")
assert files.cat_file("{PATH}")
import duckdb
duckdb.connect().register_filesystem(files)
try:
    files.cat_file("{PATH}")
except Exception as error:
    print(type(error).__name__, "before DuckDB" in str(error))
print(len(fsspec.filesystem("clf").cat_file("{PATH}")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == ["ExposedError True", str(len(SECRET))]


# --- Dask ---------------------------------------------------------------------------------------------


def test_dask_on_a_disk_is_refused(tmp_path: Path) -> None:
    """While Dask would shuffle or spill to a disk, nothing is read and nothing written."""
    import dask.dataframe

    assert dask.dataframe
    made = fsspec.filesystem("clf")
    with dask.config.set(temporary_directory=str(tmp_path)):
        with pytest.raises(ExposedError, match="confine_dask"):
            made.cat_file(PATH)
        for path, mode in ((PATH, "rb"), ("clf://hospital-a/dask.csv", "wb")):
            with pytest.raises(ExposedError, match="confine_dask"):
                made.open(path, mode)
    assert made.cat_file(PATH) == SECRET


def test_confine_dask(tmp_path: Path, memory_folder: Path) -> None:
    """It gives Dask a folder in memory, and takes no other."""
    before = dask.config.get("temporary_directory")
    try:
        assert clf.filesystem.confine_dask(memory_folder) == os.fspath(memory_folder)
        assert dask.config.get("temporary_directory") == os.fspath(memory_folder)
        with pytest.raises(ExposedError):
            clf.filesystem.confine_dask(tmp_path)
        own = clf.filesystem.confine_dask()
        os.rmdir(own)
    finally:
        dask.config.set(temporary_directory=before)


def test_errors_are_those_of_python(hospital: OwnerProcess) -> None:
    """Whoever knows Python's file errors catches these; they are errors of CLF all the same."""
    del hospital
    assert issubclass(ExposedError, (ClfError, PermissionError))
    made = fsspec.filesystem("clf")
    other = "clf://hospital-a/x"
    calls: list[tuple[Callable[..., object], tuple[str, ...]]] = [
        (made.rm, (PATH,)),
        (made.mv, (PATH, other)),
        (made.cp_file, (PATH, other)),
        (made.open, (other, "ab")),
        (made.created, (PATH,)),
    ]
    for call, arguments in calls:
        with pytest.raises(NotOfferedError):
            call(*arguments)
