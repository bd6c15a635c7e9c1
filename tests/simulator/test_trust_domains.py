# SPDX-License-Identifier: Apache-2.0
"""Simulated trust domains have the real ones' shape: quotes, TCB info, QE identity, and the PCCS paths for TDX."""

from __future__ import annotations

import dataclasses
import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clf.simulator.pccs import Pccs
from clf.simulator.platform import SimulatedPlatform
from clf.simulator.tdx import ModuleLevel, td_report
from clf.verify.fetch import PccsSource
from clf.verify.quote import parse_quote, sgx_identity, tdx_identity
from tests.verify.scene import NOW, REPORT_DATA, SEED, RealQuote, real_quotes, td_scene

_REGISTERS = [
    "mr_td",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "mr_seam",
    "mr_signer_seam",
    "mr_service_td",
]


def _real(version: int) -> RealQuote:
    return next(real for real in real_quotes(tee="tdx", role="verifies") if real.entry["quote_version"] == version)


def _shape(value: Any) -> Any:
    """Members in their order and types; of a list, the shapes that occur."""
    if isinstance(value, dict):
        return [(name, _shape(item)) for name, item in value.items()]
    if isinstance(value, list):
        return _shape(value[0])
    return type(value).__name__


def test_collateral_has_the_shape_of_intel_s() -> None:
    """Same members in the same order, components and module identities included; same compact JSON."""
    ours = td_scene(module_levels=(ModuleLevel(5),)).collateral
    theirs = _real(4).collateral
    for name in ("tcb_info", "qe_identity"):
        mine, real = json.loads(getattr(ours, name)), json.loads(getattr(theirs, name))
        assert json.dumps(mine, separators=(",", ":")) == getattr(ours, name)
        assert _shape(mine) == _shape(real)
    mine, real = json.loads(ours.tcb_info), json.loads(theirs.tcb_info)
    for name in ("sgxtcbcomponents", "tdxtcbcomponents"):
        kinds = [
            [{key: value for key, value in part.items() if key != "svn"} for part in side["tcbLevels"][0]["tcb"][name]]
            for side in (mine, real)
        ]
        assert kinds[0] == kinds[1]
    assert mine["tdxModule"] == real["tdxModule"]
    assert ours.facts.tee == theirs.facts.tee == "tdx"


@pytest.mark.parametrize("version", [4, 5])
def test_quotes_have_the_shape_of_real_ones(version: int) -> None:
    """Everything that is not measurement, key, signature or certificate equals a real quote's."""
    ours, real = parse_quote(td_scene(version=version).quote), parse_quote(_real(version).raw)
    for name in ("version", "tee", "qe_vendor_id", "qe_auth_data", "qe_svn", "pce_svn"):
        assert getattr(ours, name) == getattr(real, name)
    assert ours.pck_chain[-2:] == real.pck_chain[-2:] == b"\n\0"
    qe, real_qe = sgx_identity(ours.qe_report), sgx_identity(real.qe_report)
    assert (qe.attributes, qe.product_id) == (real_qe.attributes, real_qe.product_id)


_bytes = {size: st.binary(min_size=size, max_size=size) for size in (8, 16, 48, 64)}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(_REGISTERS, _bytes[48]),
            "seam_attributes": _bytes[8],
            "xfam": _bytes[8],
            "tee_tcb_svn": _bytes[16],
            "flags": st.integers(0, 2**64 - 1),
        },
    ),
    _bytes[64],
)
@settings(deadline=None)
def test_every_field_of_a_report_is_read_back(fields: dict[str, Any], report_data: bytes) -> None:
    """Writer and reader agree on each field's place, in both report forms."""
    for td15 in (False, True):
        body = td_report(report_data, td15=td15, **fields)
        assert len(body) == (648 if td15 else 584)
        identity = {**dataclasses.asdict(tdx_identity(body)), "flags": tdx_identity(body).flags}
        assert body[520:584] == report_data
        for name, value in fields.items():
            expected = None if name == "mr_service_td" and not td15 else value
            assert identity[name] == expected


def test_what_does_not_fit_is_refused() -> None:
    """Nothing is padded or cut silently; a version that cannot carry a report is not guessed."""
    machine = SimulatedPlatform(SEED, NOW)
    with pytest.raises(ValueError, match="mr_td"):
        machine.td_report(REPORT_DATA, mr_td=bytes(47))
    with pytest.raises(ValueError, match="version 4"):
        machine.quote(machine.td_report(REPORT_DATA, td15=True), 4)
    with pytest.raises(ValueError, match="version 4"):
        machine.quote(machine.report(bytes(32), bytes(32), REPORT_DATA), 4)
    with pytest.raises(ValueError, match="385 bytes"):
        machine.quote(bytes(385))


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Reproducible for trust domains, too."""
    for version in (4, 5):
        assert td_scene(version=version) == td_scene(version=version)
    assert td_scene(tee_tcb_svn=bytes(16)).collateral != td_scene().collateral


def test_the_pccs_serves_tdx_below_its_own_paths() -> None:
    """What a verifier fetches for TDX is TDX collateral; CRLs are where they are for SGX, and nowhere else."""
    machine = SimulatedPlatform(SEED, NOW)
    with Pccs(machine) as pccs:
        fetched = PccsSource(pccs.url).fetch(machine.fmspc.hex(), "processor", "tdx")
        assert fetched == machine.collateral("tdx")
        assert PccsSource(pccs.url).fetch(machine.fmspc.hex(), "processor", "sgx") == machine.collateral()
        for path, code in (
            ("/tdx/certification/v4/rootcacrl", 404),
            ("/tdx/certification/v4/pckcrl?ca=processor", 404),
            ("/tdx/certification/v4/tcb?fmspc=000000000000", 404),
            ("/tdx/certification/v4/tcb?fmspc=0", 400),
            ("/tdx/certification/v3/tcb", 404),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(pccs.url + path)
            assert caught.value.code == code
            caught.value.close()
