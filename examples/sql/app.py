# SPDX-License-Identifier: Apache-2.0
"""The measured app: one SQL query over the files of two owners; both get the answer, and nobody else does.

What it prints, the host can read: the plan, which says nothing of any person.
"""

from pathlib import Path

import duckdb

import clf.filesystem

QUERY = Path("query.sql").read_text(encoding="utf-8")

with duckdb.connect() as connection:
    # Registers clf://, and sees to it that DuckDB writes nothing to the host's disk.
    files = clf.filesystem.confine_duckdb(connection, memory_limit="1GB")
    print(connection.execute(f"EXPLAIN {QUERY}").fetchall()[0][1])
    connection.execute(f"CREATE TEMP TABLE costs AS {QUERY}")
    with files.transaction:  # published when the block ends well, and not at all otherwise
        for owner in ("hospital-a", "insurer"):
            connection.execute(f"COPY costs TO 'clf://{owner}/reports/costs.csv' (HEADER)")
    print("returned reports/costs.csv to both owners")
