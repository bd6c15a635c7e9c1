# SPDX-License-Identifier: Apache-2.0
"""`[state] url`: strict, and no place for a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from clf.errors import ConfigError
from clf.server.config import Collateral, parse_config
from clf.server.state_url import UrlError, parse_state_url
from clf.server.template import render

FOLDER = Path("/srv/owner")
CONFIG = render(
    trust="intel", collateral=Collateral("pcs"), listen="127.0.0.1:4433", admin="127.0.0.1:4434", simulation_root=None
)


def test_sqlite_is_the_default() -> None:
    """A file that says nothing about it has its state in its own folder."""
    assert parse_config(CONFIG.encode(), FOLDER).state_url is None
    assert parse_state_url("sqlite", None, FOLDER) is None


GOOD: dict[str, dict[str, str]] = {
    "postgresql://clf@localhost/clf": {"host": "localhost", "port": "5432", "user": "clf", "dbname": "clf"},
    "postgresql://clf@127.0.0.1:6543/clf": {"host": "127.0.0.1", "port": "6543"},
    "postgresql://clf@[::1]/a%20b": {"host": "::1", "dbname": "a b"},
    "postgresql://clf@/clf?host=/run/postgresql": {"host": "/run/postgresql"},
    "postgresql://o%40x@db.example/clf?sslmode=verify-full&sslrootcert=ca.pem": {
        "user": "o@x", "host": "db.example", "sslmode": "verify-full", "sslrootcert": "/srv/owner/ca.pem",
    },
    "postgresql://clf@db.example/clf?sslmode=verify-full&sslrootcert=system": {"sslrootcert": "system"},
    "postgresql://clf@one.example:1,two.example/clf?sslmode=verify-full": {
        "host": "one.example,two.example", "port": "1,5432", "target_session_attrs": "read-write",
    },
    "postgresql:///?service=clf&sslmode=verify-full": {"service": "clf", "sslmode": "verify-full"},
}  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_what_is_understood(url: str) -> None:
    """Hosts, ports, names and files become parameters of the library; Kerberos never replaces TLS."""
    found = parse_state_url(url, None, FOLDER)
    assert found is not None
    assert found.parameters.items() >= GOOD[url].items()
    assert found.parameters["gssencmode"] == "disable"
    assert "password" not in found.parameters


BAD: dict[str, str] = {
    "": "neither",
    "postgres://clf@localhost/clf": "neither",
    "mysql://clf@localhost/clf": "neither",
    "postgresql://clf:S3CRET@localhost/clf": "password",
    "postgresql://clf@localhost/clf?password=S3CRET": "password",
    "postgresql://clf@localhost/clf?passfile=/x": "password",
    "postgresql://localhost/clf": "names no user",
    "postgresql://clf@localhost": "names no database",
    "postgresql://clf@/clf": "names no host",
    "postgresql://clf@localhost/clf/x": "with / or =",
    "postgresql://clf@localhost/host=evil": "with / or =",
    "postgresql://clf@localhost:0/clf": "no name or address with a port",
    "postgresql://clf@localhost:65536/clf": "no name or address with a port",
    "postgresql://clf@-x/clf": "no name or address",
    "postgresql://clf@[::1/clf": "no name or address",
    "postgresql://clf@localhost/clf#x": "fragment",
    "postgresql://clf@local host/clf": "white space",
    "postgresql://clf@localhost/clf?sslmode=verify-full&sslmode=disable": "twice",
    "postgresql://clf@localhost/clf?options=-csearch_path=x": "has the option 'options'",
    "postgresql://clf@localhost/clf?sslmode=": "empty option",
    "postgresql://clf@localhost/clf?sslmode=strict": "sslmode 'strict'",
    "postgresql://clf@localhost/clf?host=/run": "stands beside another host",
    "postgresql://clf@/clf?host=db.example": "not the folder of a socket",
    "postgresql://clf@db.example/clf": "without sslmode=verify-full",
    "postgresql://clf@db.example/clf?sslmode=require": "without sslmode=verify-full",
    "postgresql://clf@10.0.0.1/clf?sslmode=verify-ca": "without sslmode=verify-full",
    "postgresql://clf@localhost,db.example/clf": "without sslmode=verify-full",
    "postgresql:///?service=clf": "without sslmode=verify-full",
}


@pytest.mark.parametrize("url", BAD)
def test_what_is_refused(url: str) -> None:
    """The error names field, line and remedy, and repeats no password."""
    with pytest.raises(UrlError, match=BAD[url]) as refused:
        parse_state_url(url, None, FOLDER)
    assert refused.value.remedy
    with pytest.raises(ConfigError) as told:
        parse_config(f'{CONFIG}\n[state]\nurl = "{url}"\n'.encode(), FOLDER)
    assert told.value.field == "state.url"
    assert told.value.line
    assert told.value.remedy
    assert "S3CRET" not in str(told.value) + repr(told.value)


def test_a_password_file_needs_a_database_that_asks_for_one() -> None:
    """SQLite has no password: whoever names a file with one believes that something else holds the state."""
    with pytest.raises(ConfigError, match="password_file") as refused:
        parse_config(f'{CONFIG}\n[state]\npassword_file = "x"\n'.encode(), FOLDER)
    assert refused.value.remedy == "remove state.password_file"
    found = parse_config(
        f'{CONFIG}\n[state]\nurl = "postgresql://c@localhost/c"\npassword_file = "x"\n'.encode(), FOLDER
    )
    assert found.state_url is not None
    assert found.state_url.password_file == FOLDER / "x"


def test_what_servers_must_agree_on() -> None:
    """Addresses and folders are each server's own; whom it trusts and what it allows is not, however it is written."""
    first = parse_config(CONFIG.encode(), FOLDER)
    moved = CONFIG.replace("127.0.0.1:4433", "127.0.0.1:5533").replace('"data"', '"/data"') + "\n# a comment\n"
    assert parse_config(moved.encode(), FOLDER).digest != first.digest
    assert parse_config(moved.encode(), FOLDER).shared_digest == first.shared_digest
    for before, after in (
        ("max_age_hours = 168", "max_age_hours = 169"),
        ("min_tcb_evaluation_number = 18", "min_tcb_evaluation_number = 17"),
    ):
        assert parse_config(CONFIG.replace(before, after).encode(), FOLDER).shared_digest != first.shared_digest
    known = CONFIG + f'\n[enclave.e]\nmrenclave = ["{"ab" * 32}"]\nplatforms = "any"\n'
    grant = '\n[[grant]]\nname = "g"\nenclave = "e"\nactions = ["read"]\npaths = ["*"]\nmax_runs = 1\nmax_bytes = 1\n'
    digests = {
        parse_config((known + more).encode(), FOLDER).shared_digest
        for more in ("", grant, grant.replace("max_runs = 1", "max_runs = 2"), grant.replace('"*"', '"**"'))
    }
    assert len(digests) == 4
