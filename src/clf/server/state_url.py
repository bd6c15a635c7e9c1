# SPDX-License-Identifier: Apache-2.0
"""`[state] url`: which database holds the state, read strictly and without a password in it.

    sqlite                                    a file in the state folder: one server on one machine
    postgresql://USER@HOST:PORT/DATABASE?...  shared by several servers; written as PostgreSQL's own tools take it

Whoever can speak for the database decides what is counted, so a database on another machine must prove who it is:
`sslmode=verify-full`. The password stands in a file of PostgreSQL's own form, which its library reads by itself: it
never passes through CLF, and so cannot reach a log or a message. No IO here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from clf.server.hosts import is_ip, is_loopback

SQLITE: Final = "sqlite"
_SCHEME: Final = "postgresql://"
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_OPTIONS: Final = ("host", "service", "sslmode", *_FILES, "target_session_attrs")
_SSLMODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_EXAMPLE: Final = (
    "write it like postgresql://clf@db.example:5432/clf?sslmode=verify-full&sslrootcert=/etc/clf/db-ca.pem"
)
_FILE_REMEDY: Final = "name a file with it in state.password_file, one line like *:*:*:clf:PASSWORD"


class UrlError(ValueError):
    """What is wrong with a URL, and the remedy. Holds nothing of the URL that could be a password."""

    def __init__(self, message: str, remedy: str = _EXAMPLE) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True)
class StateUrl:
    """A PostgreSQL database: parameters of libpq, none of which is a password. `name` is for messages."""

    name: str
    parameters: Mapping[str, str]
    password_file: Path | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON-ready, for another process of this server."""
        file = None if self.password_file is None else os.fspath(self.password_file)
        return {"name": self.name, "parameters": dict(self.parameters), "password_file": file}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> StateUrl:
        """What `to_dict` wrote."""
        file = value["password_file"]
        return cls(str(value["name"]), dict(value["parameters"]), None if file is None else Path(file))


def parse_state_url(url: str, password_file: str | None, folder: Path) -> StateUrl | None:
    """The database that `url` names, or None for SQLite. Relative files are meant from `folder`. Raises UrlError."""
    if url == SQLITE:
        if password_file is not None:
            raise UrlError("has a password_file beside it, and SQLite takes none", "remove state.password_file")
        return None
    if not url.startswith(_SCHEME):
        raise UrlError('is neither "sqlite" nor begins with postgresql://')
    if "#" in url or re.search(r"\s", url):
        raise UrlError("holds white space or a fragment")
    rest, _, query = url.removeprefix(_SCHEME).partition("?")
    authority, _, database = rest.partition("/")
    user, _, hosts = authority.rpartition("@")
    if ":" in user:
        raise UrlError("holds a password, and this file is no place for one", _FILE_REMEDY)
    options = _options(query, folder)
    places = _places(hosts, options)
    parameters = {**options, **_joined(places)}
    for name, value in (("user", unquote(user)), ("dbname", unquote(database))):
        if value:
            parameters[name] = value
        elif "service" not in options:
            raise UrlError(f"names no {'database' if name == 'dbname' else name}")
    if "/" in parameters.get("dbname", "") or "=" in parameters.get("dbname", ""):
        raise UrlError("names a database with / or = in its name")
    remote = [host for host, _port in places if not _is_local(host)] or (["its service"] if not places else [])
    if remote and parameters.get("sslmode") != "verify-full":
        raise UrlError(
            f"reaches {remote[0]} without sslmode=verify-full: anybody on the way could be the database",
            "append ?sslmode=verify-full&sslrootcert=FILE with the database's CA",
        )
    # Where Kerberos is at hand, libpq would otherwise use it in place of TLS, whatever sslmode says.
    parameters["gssencmode"] = "disable"
    if len(places) > 1:
        parameters.setdefault("target_session_attrs", "read-write")
    shown = ",".join(f"{host}:{port}" if port else host for host, port in places)
    name = f"{_SCHEME}{shown or 'service ' + options.get('service', '')}/{parameters.get('dbname', '')}"
    return StateUrl(name, parameters, None if password_file is None else folder / password_file)


def _options(query: str, folder: Path) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=16)
    except ValueError:
        raise UrlError("has a query that is not of the form name=value&name=value") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise UrlError("says an option twice")
    if "password" in options or "passfile" in options:
        raise UrlError("names a password or its file, and this is no place for either", _FILE_REMEDY)
    for name, value in options.items():
        if name not in _OPTIONS:
            raise UrlError(f"has the option {name!r}", f"known are: {', '.join(_OPTIONS)}")
        if not value:
            raise UrlError(f"has an empty option {name}")
    if options.get("sslmode", _SSLMODES[0]) not in _SSLMODES:
        raise UrlError(f"has the sslmode {options['sslmode']!r}", f"known are: {', '.join(_SSLMODES)}")
    for name in _FILES:
        if name in options and options[name] != "system":
            options[name] = os.fspath(folder / options[name])
    return options


def _places(hosts: str, options: dict[str, str]) -> list[tuple[str, str]]:
    """(host, port) of each; a socket's folder stands in the option `host`."""
    socket = options.pop("host", None)
    if socket is not None:
        if hosts or not socket.startswith("/"):
            raise UrlError("has an option host that is not the folder of a socket, or stands beside another host")
        return [(socket, "")]
    if not hosts:
        if "service" not in options:
            raise UrlError("names no host")
        return []
    found = []
    for written in hosts.split(","):
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([1-9][0-9]{0,4}))?", written)
        if match is None or (match[2] and int(match[2]) > 65535):
            raise UrlError("has a host that is no name or address with a port")
        host = match[1].strip("[]")
        if not (_HOST.fullmatch(host) or is_ip(host)):
            raise UrlError("has a host that is no name or address")
        found.append((host, match[2] or "5432"))
    return found


def _joined(places: list[tuple[str, str]]) -> dict[str, str]:
    found = {"host": ",".join(host for host, _port in places), "port": ",".join(port for _host, port in places)}
    return {name: value for name, value in found.items() if value.strip(",")}


def _is_local(host: str) -> bool:
    return host.startswith("/") or is_loopback(host)
