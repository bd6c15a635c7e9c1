# SPDX-License-Identifier: Apache-2.0
"""The measured app: the query of examples/sql as a Dask DataFrame, over workers that are enclaves, too.

What it prints, the host can read: it says nothing of any person.
"""

import dask.dataframe
import fsspec
import pandas

import clf.dask

WORKERS = 4


def read(path, columns):
    """One partition for each row group; each worker gets its own from the owner."""
    table = dask.dataframe.read_parquet(path, columns=columns, split_row_groups=True)
    table["day"] = dask.dataframe.to_datetime(table["day"])
    return table


with clf.dask.cluster() as client:
    visits = read("clf://hospital-a/visits.parquet", ["person", "day", "diagnosis"])
    claims = read("clf://insurer/claims.parquet", ["person", "day", "paid_cents"])
    joined = visits.merge(claims, on="person", suffixes=("", "_paid"))
    waited = joined["day_paid"] - joined["day"]
    within = joined[(waited >= pandas.Timedelta(0)) & (waited <= pandas.Timedelta(days=30))]
    query = within.groupby("diagnosis")["paid_cents"].agg(["count", "sum"])
    query.optimize(fuse=False).pprint()
    print(flush=True)
    client.wait_for_workers(WORKERS)
    print(f"{WORKERS} workers joined", flush=True)
    costs = query.compute()
    costs = costs[costs["count"] >= 100].reset_index()
    costs["paid_euros"] = (
        costs["sum"].astype("int64") // 100
    )  # a float where a partition was empty; below 2^53, so exact
    costs = costs.rename(columns={"count": "claims"})[["diagnosis", "claims", "paid_euros"]]
    costs = costs.sort_values(["paid_euros", "diagnosis"], ascending=[False, True])
    files = fsspec.filesystem("clf")
    with files.transaction:
        for owner in ("hospital-a", "insurer"):
            files.pipe(f"{owner}/reports/costs.csv", costs.to_csv(index=False).encode())
    print("returned reports/costs.csv to both owners")
