# SPDX-License-Identifier: Apache-2.0
"""Made-up files of the two owners, the same each time: nobody in them exists.

    visits.parquet   hospital-a: one row a visit; who, when, what was found, and much that the query does not need
    claims.parquet   insurer: one row a claim; who, when, what was paid, and the invoice's text

Both know people by the same number. Everything is drawn from a hash of row number and column: some people come more
often than others, and some diagnoses occur more often.
"""

from pathlib import Path

import duckdb

DIAGNOSES = ("I10", "E11", "J45", "M54", "F32", "C50", "I21", "N18", "J18", "K21", "G43", "S72")

# Uniform numbers from 0 to 1, one for each row and column.
_DRAW = "CREATE MACRO draw(i, what) AS hash(what || i) / 18446744073709551616.0"

_VISITS = """
COPY (
    SELECT
        (draw(i, 'person') ** 1.5 * {people})::INTEGER AS person,
        DATE '2025-01-01' + (draw(i, 'day') * 364)::INTEGER AS day,
        ({diagnoses})[1 + least(floor(draw(i, 'diagnosis') ** 2 * {kinds}), {kinds} - 1)::INTEGER] AS diagnosis,
        'ward ' || (1 + draw(i, 'ward') * 40)::INTEGER AS ward,
        (10 + 110 * draw(i, 'minutes') ** 3)::SMALLINT AS minutes,
        90 + (draw(i, 'pressure') * 90)::SMALLINT AS systolic_pressure,
        'seen by doctor ' || (i % 997) || ', follow-up in ' || (i % 12) || ' weeks; file ' || md5(i::VARCHAR) AS note
    FROM range({visits}) AS t(i)
) TO '{folder}/visits.parquet' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {group})
"""

_CLAIMS = """
COPY (
    SELECT
        (draw(i, 'insured') ** 1.5 * {people})::INTEGER AS person,
        DATE '2025-01-01' + (draw(i, 'paid on') * 364)::INTEGER AS day,
        (500 + 2_000_000 * draw(i, 'cents') ** 6)::INTEGER AS paid_cents,
        'invoice ' || md5(i::VARCHAR) || ', checked ' || (draw(i, 'checked') * 9)::INTEGER || ' times' AS text,
        'region ' || (1 + draw(i, 'region') * 16)::INTEGER AS region
    FROM range({claims}) AS t(i)
) TO '{folder}/claims.parquet' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {group})
"""


def visits(folder: Path, rows: int, group: int = 122_880) -> None:
    """Write visits.parquet with so many rows, `group` of them together."""
    _write(_VISITS, folder, rows, group)


def claims(folder: Path, rows: int, group: int = 122_880) -> None:
    """Write claims.parquet, with two rows for three visits."""
    _write(_CLAIMS, folder, rows, group)


def _write(query: str, folder: Path, rows: int, group: int) -> None:
    with duckdb.connect() as connection:
        connection.execute(_DRAW)
        connection.execute(
            query.format(
                folder=folder,
                group=group,
                visits=rows,
                claims=rows * 2 // 3,
                people=max(rows // 6, 1),
                diagnoses=list(DIAGNOSES),
                kinds=len(DIAGNOSES),
            )
        )
