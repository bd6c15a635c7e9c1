# SPDX-License-Identifier: Apache-2.0
"""The tables `[data]` and `[results]` of `clf_server.toml`: a place in an S3 bucket instead of a folder.

Credentials are never in this file: they come as the AWS tools look for them (environment, shared credentials file, the
machine's role), or from one file that is named here and then from nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from clf.errors import WireError
from clf.server.config_model import ObjectStore
from clf.server.hosts import is_loopback
from clf.strict_toml import at
from clf.toml_lines import Lines
from clf.wire.paths import check_path

_URL: Final = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<prefix>.*)", re.DOTALL)
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True)
class Bucket:
    """A place in a bucket. `prefix` is empty or ends in `/`; `endpoint` is None for Amazon's own."""

    name: str
    prefix: str
    region: str
    endpoint: str | None
    path_style: bool
    ca: Path | None
    credentials: Path | None

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}"

    def overlaps(self, other: Bucket) -> bool:
        """Whether one lies in the other, as far as the configuration tells."""
        if (self.name, self.endpoint) != (other.name, other.endpoint):
            return False
        return self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix)


def to_bucket(store: ObjectStore, table: str, folder: Path, lines: Lines, file: str) -> Bucket:
    """Check a table. Raises ConfigError with field, value and remedy."""
    found = _URL.fullmatch(store.url)
    prefix = found["prefix"] if found else ""
    if found is None or ".." in found["bucket"] or (prefix and not prefix.endswith("/")):
        remedy = 'write it like "s3://bucket/" or "s3://bucket/folder/", with a slash at the end'
        raise at(lines, (table, "url"), file, "is not a place in a bucket", remedy=remedy, value=store.url)
    try:
        check_path(prefix or "/")
    except WireError as error:
        raise at(lines, (table, "url"), file, error.message, remedy="use a plain prefix", value=store.url) from None
    if not _REGION.fullmatch(store.region):
        remedy = 'like "eu-central-1"; stores that know no regions take "us-east-1"'
        raise at(lines, (table, "region"), file, "is not the name of a region", remedy=remedy, value=store.region)
    if store.endpoint is not None:
        _check_endpoint(store.endpoint, table, lines, file)
    elif store.ca is not None:
        raise at(
            lines,
            (table, "ca"),
            file,
            "stands without an endpoint: Amazon's own have certificates that every system knows",
            remedy="name the endpoint, or remove it",
            value=store.ca,
        )
    for name in ("ca", "credentials"):
        if getattr(store, name) == "":
            raise at(lines, (table, name), file, "is empty", remedy="name the file, or remove it")
    return Bucket(
        name=found["bucket"],
        prefix=prefix,
        region=store.region,
        endpoint=store.endpoint.rstrip("/") if store.endpoint is not None else None,
        path_style=store.path_style,
        ca=folder / store.ca if store.ca is not None else None,
        credentials=folder / store.credentials if store.credentials is not None else None,
    )


def _check_endpoint(endpoint: str, table: str, lines: Lines, file: str) -> None:
    place = (table, "endpoint")
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host, _, _ = (parts.netloc, "", "") if port is None else parts.netloc.rpartition(":")
    plain = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("https", "http") or not plain or not _HOST.fullmatch(host) or port == 0:
        remedy = "write it like https://s3.example:9000 (without user, path, query or fragment)"
        raise at(lines, place, file, "is not the base URL of an S3 server", remedy=remedy, value=endpoint)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        remedy = "use https, with ca where its certificate is your own"
        raise at(
            lines, place, file, "is plain http to another machine: whoever is in between reads the data",
            remedy=remedy, value=endpoint,
        )  # fmt: skip
