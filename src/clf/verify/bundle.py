# SPDX-License-Identifier: Apache-2.0
"""Collateral in a file: what an owner with no way out carries over, and what the cache keeps between starts.

One format for both, described in docs/collateral.md. It protects nothing, because every part of collateral is signed:
whoever reads a bundle verifies it like what comes from the network. Does no IO.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from clf import limits
from clf.errors import CollateralError
from clf.verify.claims import Tee
from clf.verify.collateral import Collateral, load_object, malformed

FORMAT: Final = "clf-collateral-bundle"
VERSION: Final = 1
_MEMBERS: Final = {"format", "version", "platforms"}
_PLATFORM_MEMBERS: Final = {"tee", "fmspc", "pck_ca", "fetched", "collateral"}

Key = tuple[str, str, Tee]
"""A platform model: FMSPC (12 lower-case hex digits), PCK CA ("processor" or "platform"), TEE."""


@dataclass(frozen=True)
class Kept:
    """Collateral of one platform model, and when it was fetched (seconds since the epoch; 0: not known)."""

    collateral: Collateral
    fetched: float = 0.0

    @property
    def key(self) -> Key:
        """Which platform model it is for. Raises CollateralError `collateral_malformed`."""
        facts = self.collateral.facts
        return facts.fmspc, facts.pck_ca, facts.tee


def describe(key: Key) -> str:
    """A platform model for people."""
    fmspc, pck_ca, tee = key
    return f"{tee.upper()} {fmspc} ({pck_ca} CA)"


def write_bundle(items: Iterable[Kept]) -> bytes:
    """A bundle, in a fixed order, so that the same collateral gives the same bytes."""
    platforms = [
        {
            "tee": item.key[2],
            "fmspc": item.key[0],
            "pck_ca": item.key[1],
            "fetched": int(item.fetched),
            "collateral": json.loads(item.collateral.to_json()),
        }
        for item in sorted(items, key=lambda item: item.key)
    ]
    return json.dumps({"format": FORMAT, "version": VERSION, "platforms": platforms}, indent=1).encode() + b"\n"


def read_bundle(data: bytes) -> tuple[Kept, ...]:
    """What a bundle holds, unverified; also reads one platform's collateral as dcap-qvl writes it.

    Raises CollateralError `collateral_malformed`; `collateral_bundle_newer` for a version that this CLF does not know.
    """
    if len(data) > limits.COLLATERAL_EXPORT_BYTES:
        raise malformed(f"a bundle of {len(data)} bytes, more than {limits.COLLATERAL_EXPORT_BYTES}")
    value = load_object(data, "bundle")
    if "format" not in value:
        return (Kept(Collateral.from_json(data)),)
    if value["format"] != FORMAT:
        raise malformed(f"format is {value['format']!r}, not {FORMAT!r}")
    if value.get("version") != VERSION:
        raise CollateralError(
            f"a bundle of version {value.get('version')!r}; this CLF reads {VERSION}",
            code="collateral_bundle_newer",
            remedy="use the same version of CLF on both machines",
        )
    platforms = value.get("platforms")
    if set(value) != _MEMBERS or not isinstance(platforms, list):
        raise malformed(f"a bundle has the members {', '.join(sorted(_MEMBERS))}, no others")
    if len(platforms) > limits.COLLATERAL_FILES_COUNT:
        raise malformed(f"a bundle of more than {limits.COLLATERAL_FILES_COUNT} platforms")
    found = tuple(_platform(item) for item in platforms)
    if len({item.key for item in found}) != len(found):
        raise malformed("a platform stands twice in the bundle")
    return found


def _platform(item: Any) -> Kept:
    if not isinstance(item, dict) or set(item) != _PLATFORM_MEMBERS or not isinstance(item["collateral"], dict):
        raise malformed(f"a platform in a bundle has the members {', '.join(sorted(_PLATFORM_MEMBERS))}, no others")
    fetched = item["fetched"]
    if type(fetched) is not int or not 0 <= fetched < 1 << 40:
        raise malformed("member fetched is no time in seconds")
    kept = Kept(Collateral.from_json(json.dumps(item["collateral"])), fetched)
    stated = (item["fmspc"], item["pck_ca"], item["tee"])
    if kept.key != stated:
        raise malformed(f"a bundle says {stated} of the collateral of {kept.key}")
    return kept
