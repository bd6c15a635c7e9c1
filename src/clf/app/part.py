# SPDX-License-Identifier: Apache-2.0
"""Which part of a cluster a process is, and where: what `clf run` says to it in its environment.

The host chooses all of it, and may lie: enclaves believe each other's evidence and not an address, and a role is one of
programs that are measured alike. What is wrong here keeps a cluster from starting, and gives nothing to anybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from clf.errors import ConfigError

Role = Literal["first", "scheduler", "worker", "app"]

ENVIRONMENT: Final = "CLF_CLUSTER"
"""The environment variable with all of it: ROLE JOIN LISTEN CONTACT; '-' stands for what is not said."""

JOIN_PORT: Final = 8785
SCHEDULER_PORT: Final = 8786
"""Dask's own."""
WORKER_PORT: Final = 8788
"""One that Dask has for nothing else."""

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_WILD = "0.0.0.0"  # noqa: S104 - recognised, not listened at


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scheduler or worker listens (port 0: any), and by what others reach it: tls://HOST:PORT, or nothing."""

    host: str = "127.0.0.1"
    port: int = 0
    contact: str = ""


ANY_PORT: Final = Place()
"""For who is reached from this machine alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a cluster: its role, where the first enclave is joined, and where this one is (not for an app)."""

    role: Role
    join: tuple[str, int]
    place: Place = Place()

    @property
    def value(self) -> str:
        """As the environment variable says it."""
        listen = "-" if self.role == "app" else f"{self.place.host}:{self.place.port}"
        return f"{self.role} {self.join[0]}:{self.join[1]} {listen} {self.place.contact or '-'}"


def part(role: str, *, join: str = "", listen: str = "", contact: str = "") -> Part:
    """What the options of `clf run` mean. Raises ConfigError with field, value and remedy.

    first, scheduler: they listen at `listen`, and are joined there at `join`'s port, or `join`'s own address.
    worker: it joins at `join`, and listens at `listen`. app: it joins at `join`.
    """
    if role not in get_args(Role):
        raise ConfigError(f"{role!r} is no role", field="--role", remedy=f"one of {', '.join(get_args(Role))}")
    known = cast(Role, role)
    if known == "app":
        for field, value in (("--listen", listen), ("--contact", contact)):
            if value:
                raise ConfigError(f"{value!r}: an app listens nowhere", field=field, remedy="leave it out")
        return Part(known, _joined(join))
    if known == "worker":
        return Part(known, _joined(join), _place(listen or f"0.0.0.0:{WORKER_PORT}", contact, WORKER_PORT))
    place = _place(listen or f"127.0.0.1:{SCHEDULER_PORT}", contact, SCHEDULER_PORT)
    where = address(join, "--join", JOIN_PORT) if join else (place.host, JOIN_PORT)
    if where[1] == place.port and place.port:
        raise ConfigError(
            f"{join}: members join and work at one port", field="--join", remedy=f"another port, like {JOIN_PORT}"
        )
    return Part(known, where, place)


def here(environment: Mapping[str, str]) -> Part:
    """This process's part. Raises ConfigError where `clf run` did not say it."""
    role, *others = environment.get(ENVIRONMENT, "").split(" ")
    if len(others) != 3:
        raise ConfigError(
            f"{ENVIRONMENT} does not say which part of a cluster this is",
            field=ENVIRONMENT,
            remedy="clf run APP --workers 4, or clf run APP --role scheduler",
        )
    join, listen, contact = ("" if item == "-" else item for item in others)
    return part(role, join=join, listen=listen, contact=contact.removeprefix("tls://"))


def address(text: str, field: str, port: int | None = None) -> tuple[str, int]:
    """HOST:PORT, or HOST where a port is known; a name or an IPv4 address. Raises ConfigError."""
    host, colon, digits = text.rpartition(":")
    if not colon:
        host, digits = text, "" if port is None else str(port)
    if not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", digits) or int(digits) > 65535:
        raise ConfigError(f"{text!r} is no address", field=field, remedy="HOST:PORT, like scheduler.example:8785")
    return host, int(digits)


def _joined(join: str) -> tuple[str, int]:
    if not join:
        raise ConfigError(
            "it is not said where the first enclave is", field="--join", remedy="--join HOST:PORT of the scheduler"
        )
    return address(join, "--join", JOIN_PORT)


def _place(listen: str, contact: str, port: int) -> Place:
    host, number = address(listen, "--listen", port)
    if not contact:
        return Place(host, number)
    name, at = address(contact, "--contact", number)
    if name == _WILD or not at:
        raise ConfigError(
            f"{contact!r} is where nobody is reached", field="--contact", remedy="the name that other machines know"
        )
    return Place(host, number, f"tls://{name}:{at}")
