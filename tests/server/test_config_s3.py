# SPDX-License-Identifier: Apache-2.0
"""The tables [data] and [results] of clf_server.toml are used as a whole or refused with field, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from clf.errors import ConfigError
from clf.server.config_s3 import Bucket
from tests.server.owner import TEXT, read

DATA = """
[data]
url = "s3://hospital/released/"
region = "eu-central-1"
endpoint = "https://s3.example:9000"
path_style = true
ca = "s3.crt"
credentials = "keys/s3.ini"

"""
RESULTS = """
[results]
url = "s3://hospital/results/"
region = "eu-central-1"
endpoint = "https://s3.example:9000"

"""


def with_tables(data: str = DATA, results: str = "") -> str:
    """TEXT with tables in place of the folders."""
    text = TEXT
    for name, table in (("data", data), ("results", results)):
        if table:
            line = f'{name} = "{name}"'
            assert line in text
            text = text.replace(line, "", 1)
    return text.replace("[attestation]", f"{data}{results}[attestation]", 1)


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as found:
        read(text)
    return found.value


def test_a_table_is_read() -> None:
    """Everything arrives, files relative to the owner's folder."""
    config = read(with_tables(DATA, RESULTS))
    assert config.data == Bucket(
        "hospital", "released/", "eu-central-1", "https://s3.example:9000", True, Path("/owner/s3.crt"),
        Path("/owner/keys/s3.ini"),
    )  # fmt: skip
    assert str(config.results) == "s3://hospital/results/"
    assert config.own_folders == []
    amazon = read(with_tables('[data]\nurl = "s3://hospital/"\nregion = "eu-central-1"\n\n')).data
    assert isinstance(amazon, Bucket)
    assert (amazon.prefix, amazon.endpoint, amazon.path_style) == ("", None, False)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("s3://hospital/released/", "s3://hospital/released", "data.url"),
        ("s3://hospital/released/", "s3://hospital", "data.url"),
        ("s3://hospital/released/", "https://hospital/released/", "data.url"),
        ("s3://hospital/released/", "s3://Hospital/released/", "data.url"),
        ("s3://hospital/released/", "s3://hos..pital/released/", "data.url"),
        ("s3://hospital/released/", "s3://hospital//released/", "data.url"),
        ("s3://hospital/released/", "s3://hospital/../released/", "data.url"),
        ("s3://hospital/released/", "s3://user:secret@hospital/", "data.url"),
        ('region = "eu-central-1"', 'region = "Frankfurt am Main"', "data.region"),
        ('region = "eu-central-1"\n', "", "data.region"),
        ("https://s3.example:9000", "http://s3.example:9000", "data.endpoint"),
        ("https://s3.example:9000", "http://127.0.0.1.example", "data.endpoint"),
        ("https://s3.example:9000", "https://user:secret@s3.example", "data.endpoint"),
        ("https://s3.example:9000", "https://s3.example/path", "data.endpoint"),
        ("https://s3.example:9000", "https://s3.example?x", "data.endpoint"),
        ("https://s3.example:9000", "https://s3.example:99999", "data.endpoint"),
        ("https://s3.example:9000", "s3.example", "data.endpoint"),
        ("https://s3.example:9000", "", "data.endpoint"),
        ('endpoint = "https://s3.example:9000"\n', "", "data.ca"),
        ('ca = "s3.crt"', 'ca = ""', "data.ca"),
        ('credentials = "keys/s3.ini"', 'credentials = ""', "data.credentials"),
        ("path_style = true", 'access_key = "A"', "data.access_key"),
    ],
)
def test_a_mistake_is_named_with_field_line_and_remedy(old: str, new: str, field: str) -> None:
    """Nothing is guessed, above all not where data is sent and whether anybody can read it on the way."""
    assert old in DATA
    error = refused(with_tables(DATA.replace(old, new, 1)))
    assert error.field == field
    assert error.remedy


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://localhost:9000/", "http://[::1]:9000"])
def test_plain_http_is_for_this_machine_only(endpoint: str) -> None:
    """A store on the same machine, or a proxy to one, may be reached without TLS."""
    data = read(with_tables(DATA.replace("https://s3.example:9000", endpoint))).data
    assert isinstance(data, Bucket)
    assert data.endpoint == endpoint.rstrip("/")


def test_a_place_is_named_exactly_once() -> None:
    """Not both a folder and a table, and not neither."""
    assert refused(TEXT.replace("[attestation]", f"{DATA}[attestation]", 1)).field == "server.data"
    assert refused(TEXT.replace('results = "results"', "", 1)).field == "server.results"


@pytest.mark.parametrize(("data", "results"), [("released/", "released/"), ("", "results/"), ("a/", "a/b/")])
def test_data_and_results_do_not_lie_in_each_other(data: str, results: str) -> None:
    """Or what came back would be released."""
    text = with_tables(DATA.replace("released/", data), RESULTS.replace("results/", results))
    assert refused(text).field == "results.url"
