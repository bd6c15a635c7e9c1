# SPDX-License-Identifier: Apache-2.0
"""Each tool that people work in reads from owners, and returns results to them, through real servers."""

from __future__ import annotations

import gc
import io
from pathlib import Path

import dask
import dask.dataframe
import duckdb
import fsspec
import pandas
import polars
import pyarrow.dataset
import pyarrow.parquet
import pytest

import clf.filesystem
from tests.world import OwnerProcess

pytestmark = pytest.mark.usefixtures("app")

TABLE = pandas.DataFrame({"person": range(5000), "age": [i % 90 for i in range(5000)], "note": ["x" * 50] * 5000})


def as_parquet(table: pandas.DataFrame) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, row_group_size=1000)
    return buffer.getvalue()


@pytest.fixture(scope="module", autouse=True)
def files(hospital: OwnerProcess) -> None:
    """The same people as CSV, as one Parquet file, and as a folder of them."""
    hospital.put("people.csv", TABLE.to_csv(index=False).encode())
    hospital.put("people.parquet", as_parquet(TABLE))
    for part in range(4):
        hospital.put(f"parts/{part}.parquet", as_parquet(TABLE[part * 1250 : (part + 1) * 1250]))


def result(owner: OwnerProcess, path: str) -> bytes:
    """What came back."""
    return (owner.results / path).read_bytes()


def test_pandas(hospital: OwnerProcess) -> None:
    """read_csv, read_parquet, to_csv and to_parquet take clf:// as any other place."""
    assert pandas.read_csv("clf://hospital-a/people.csv").equals(TABLE)
    columns = pandas.read_parquet("clf://hospital-a/people.parquet", columns=["age"])
    assert columns.equals(TABLE[["age"]])
    TABLE.to_csv("clf://hospital-a/pandas.csv", index=False)
    TABLE.to_parquet("clf://hospital-a/pandas.parquet")
    assert result(hospital, "pandas.csv") == TABLE.to_csv(index=False).encode()
    assert pandas.read_parquet(hospital.results / "pandas.parquet").equals(TABLE)


def test_pyarrow(hospital: OwnerProcess) -> None:
    """A dataset of a folder is read, filtered and pruned, and written."""
    files = fsspec.filesystem("clf")
    people = pyarrow.dataset.dataset("hospital-a/parts", filesystem=files, format="parquet")
    found = people.to_table(columns=["person"], filter=pyarrow.dataset.field("age") == 7)
    assert sorted(found["person"].to_pylist()) == [i for i in range(5000) if i % 90 == 7]
    pyarrow.parquet.write_table(found, "hospital-a/arrow.parquet", filesystem=files)
    assert pyarrow.parquet.read_table(hospital.results / "arrow.parquet").equals(found)
    pyarrow.dataset.write_dataset(
        found, "hospital-a/arrow", filesystem=files, format="parquet", existing_data_behavior="overwrite_or_ignore"
    )
    assert pyarrow.dataset.dataset(hospital.results / "arrow").to_table().num_rows == found.num_rows


def test_polars(hospital: OwnerProcess) -> None:
    """Polars reads and writes open files, and scans what pyarrow opened."""
    files = fsspec.filesystem("clf")
    with files.open("clf://hospital-a/people.parquet") as file:
        people = polars.read_parquet(file, columns=["age"])
    assert people["age"].sum() == TABLE["age"].sum()
    with files.open("clf://hospital-a/people.csv") as file:
        assert polars.read_csv(file).height == 5000
    dataset = pyarrow.dataset.dataset("hospital-a/parts", filesystem=files, format="parquet")
    old = polars.scan_pyarrow_dataset(dataset).filter(polars.col("age") > 80).select("person").collect()
    assert old.height == int((TABLE["age"] > 80).sum())
    with files.open("clf://hospital-a/polars.parquet", "wb") as file:
        people.write_parquet(file)
    assert polars.read_parquet(hospital.results / "polars.parquet").equals(people)


def test_duckdb(hospital: OwnerProcess) -> None:
    """SQL over one file, over a glob, and COPY TO in a transaction."""
    with duckdb.connect() as connection:
        files = clf.filesystem.confine_duckdb(connection)
        whole = connection.execute("SELECT sum(age) FROM 'clf://hospital-a/people.parquet'").fetchall()
        parts = connection.execute("SELECT sum(age) FROM 'clf://hospital-a/parts/*.parquet'").fetchall()
        lines = connection.execute("SELECT sum(age) FROM 'clf://hospital-a/people.csv'").fetchall()
        assert whole == parts == lines == [(TABLE["age"].sum(),)]
        with files.transaction:
            connection.execute("COPY (SELECT 1 AS one) TO 'clf://hospital-a/duck.csv'")
            connection.execute(
                "COPY (SELECT person FROM 'clf://hospital-a/parts/*.parquet') TO 'clf://hospital-a/duck.parquet'"
            )
            assert not (hospital.results / "duck.csv").exists()
    assert result(hospital, "duck.csv") == b"one\n1\n"
    assert len(pandas.read_parquet(hospital.results / "duck.parquet")) == 5000


@pytest.mark.filterwarnings("ignore:The inplace keyword:pandas.errors.Pandas4Warning")  # Dask's own use of pandas
def test_dask(hospital: OwnerProcess, memory_folder: Path) -> None:
    """A Dask DataFrame reads a folder and a CSV in parallel, shuffles in memory, and writes a folder."""
    with dask.config.set(temporary_directory=str(memory_folder), scheduler="threads"):
        people = dask.dataframe.read_parquet("clf://hospital-a/parts/*.parquet")
        assert people["age"].sum().compute() == TABLE["age"].sum()
        lines = dask.dataframe.read_csv("clf://hospital-a/people.csv", blocksize=50_000)
        assert lines.npartitions > 3
        by_age = lines.merge(people, on="person", shuffle_method="disk").groupby("age_x")["age_y"].count().compute()
        assert by_age.sort_index().tolist() == TABLE.groupby("age")["age"].count().tolist()
        people[["age"]].to_parquet("clf://hospital-a/dask")
        people[["age"]].to_csv("clf://hospital-a/dask-*.csv", index=False)
    written = pandas.read_parquet(hospital.results / "dask")
    assert written["age"].sum() == TABLE["age"].sum()
    assert len(list(hospital.results.glob("dask-*.csv"))) == 4
    gc.collect()
