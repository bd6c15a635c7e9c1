# SPDX-License-Identifier: Apache-2.0
"""Finds an owner for an app: in the measured clf.toml, in the list that `clf run` makes of it, or from arguments.

Under `clf run` a URL or a name only selects one of the owners listed there. A host that passes another address, CA or
identity is refused, because only what is measured says whom this app trusts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clf import limits
from clf.app import config as app_config
from clf.app import owners as app_owners
from clf.app.owners import Listed
from clf.attest import Attester, detect
from clf.client.http import parse_url
from clf.client.owner import Owner
from clf.errors import ConfigError, WireError
from clf.wire.encoding import unb64url


def connect(
    owner: str | None = None,
    *,
    ca: bytes | str | os.PathLike[str] | None = None,
    identity: str | Sequence[str] | None = None,
    attester: Attester | None = None,
    app: str | os.PathLike[str] | None = None,
    timeout: float = limits.CLIENT_TIMEOUT_SECONDS,
) -> Owner:
    """An owner's server, by URL or by its name in clf.toml; nothing is sent yet.

    owner      URL (https://host:port) or name; may be left out where clf.toml lists one owner
    ca         PEM of the owner's CA, as bytes or as a path; with a clf.toml it must be the one measured there
    identity   the owner's thumbprints that are believed; with a clf.toml at most those listed there
    attester   where evidence comes from; found by itself under `clf run`
    app        path of a clf.toml or its folder; under `clf run` the measured one, and no other is accepted
    timeout    seconds that an operation goes on without progress

    Raises ConfigError, AttesterError.
    """
    listed = listed_owners(app)
    if listed is not None:
        name, url, pem, pins = _listed(listed, owner, ca, identity)
    else:
        name, url, pem, pins = _given(owner, ca, identity)
    return Owner(name=name, url=url, ca=pem, identities=pins, attester=attester or detect(), timeout=timeout)


def listed_owners(app: str | os.PathLike[str] | None = None) -> dict[str, Listed] | None:
    """The owners that the app may talk to, by name; None where nothing lists any, and arguments decide.

    `app` as for connect. Without it and without a measured clf.toml, the file that CLF_OWNERS names is read. Raises
    ConfigError.
    """
    measured = os.environ.get(app_config.ENVIRONMENT)
    if measured and app is not None and not _same_file(app_config.locate(Path(app)), Path(measured)):
        raise ConfigError(
            f"{os.fspath(app)!r} is not the clf.toml that was measured", field="app", remedy="leave app= out"
        )
    described = measured or app
    if described:
        file = app_config.locate(Path(described))
        return app_owners.of_config(app_config.load(file), file.parent)
    lines = os.environ.get(app_owners.ENVIRONMENT)
    return app_owners.load(Path(lines)) if lines else None


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _listed(
    listed: dict[str, Listed],
    owner: str | None,
    ca: bytes | str | os.PathLike[str] | None,
    identity: str | Sequence[str] | None,
) -> tuple[str, str, bytes, tuple[str, ...]]:
    """The owner that clf.toml lists under this name or URL."""
    name = _select(listed, owner)
    table = listed[name]
    pem = _read(table.ca)
    if ca is not None and _read(ca) != pem:
        raise ConfigError(
            f"the CA given for {name!r} is not the one that clf.toml names and that is measured",
            field="ca",
            remedy="leave ca= out",
        )
    pins = table.identity
    if identity is not None:
        chosen = _pins(identity)
        strange = [pin for pin in chosen if pin not in pins]
        if strange:
            raise ConfigError(
                f"identity {strange[0]} is none of those that clf.toml lists for {name!r}",
                field="identity",
                remedy="leave identity= out",
            )
        pins = chosen
    return name, table.url, pem, pins


def _select(listed: dict[str, Listed], owner: str | None) -> str:
    names = ", ".join(listed) or "none"
    if owner is None:
        if len(listed) == 1:
            return next(iter(listed))
        raise ConfigError(
            "which owner?", field="owner", remedy=f"pass a name or URL to clf.connect; clf.toml lists: {names}"
        )
    if owner in listed:
        return owner
    if "://" in owner:
        place = parse_url(owner)
        for name, table in listed.items():
            if parse_url(table.url) == place:
                return name
    raise ConfigError(
        f"{owner!r} is not an owner that clf.toml lists",
        field="owner",
        code="owner_unlisted",
        remedy=f"listed are: {names}; only what is measured says whom the app trusts",
    )


def _given(
    owner: str | None, ca: bytes | str | os.PathLike[str] | None, identity: str | Sequence[str] | None
) -> tuple[str, str, bytes, tuple[str, ...]]:
    remedy = "without a clf.toml, clf.connect takes a URL, ca= and identity="
    for field, value in (("owner", owner), ("ca", ca), ("identity", identity)):
        if not value:
            raise ConfigError(f"{field} is missing", field=field, remedy=remedy)
    if owner is None or ca is None or identity is None:  # said above; for the type checker
        raise ConfigError("something is missing", remedy=remedy)
    host, _ = parse_url(owner)
    return host, owner, _read(ca), _pins(identity)


def _read(ca: bytes | str | os.PathLike[str]) -> bytes:
    if isinstance(ca, bytes):
        return ca
    try:
        with Path(ca).open("rb") as file:
            data = file.read(limits.CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the CA {os.fspath(ca)!r} cannot be read: {error.strerror}", field="ca") from None
    if len(data) > limits.CONFIG_BYTES:
        raise ConfigError(f"the CA {os.fspath(ca)!r} is longer than {limits.CONFIG_BYTES} bytes", field="ca")
    return data


def _pins(identity: str | Sequence[str]) -> tuple[str, ...]:
    pins = (identity,) if isinstance(identity, str) else tuple(identity)
    for pin in pins:
        try:
            unb64url(pin, "identity", size=32)
        except WireError as error:
            raise ConfigError(
                f"identity: {error.message}", field="identity", remedy="take it from `clf server check` of the owner"
            ) from None
    if not pins:
        raise ConfigError("identity is empty", field="identity", remedy="pin at least one thumbprint")
    return pins
