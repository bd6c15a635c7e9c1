# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/attestation.md, from the code and from real quotes: `python -m tests.tools.attestation_tables`.

Without arguments the page's tables are written anew; what stands around them stays. Tests compare them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from clf.errors import ClfError
from clf.verify.claims import Claims
from clf.verify.policy import PROFILES, Policy, TcbRule, enclave_known
from clf.verify.quote import parse_quote
from clf.verify.rules import ANY
from clf.verify.steps import CODES, STEPS, label
from clf.verify.trust import TrustRoot
from tests.shared import ROOT
from tests.verify.scene import RealQuote, Scene, real_quotes
from tests.verify.test_policy_real import rule_for

PAGE: Final = ROOT / "docs" / "attestation.md"


def steps() -> str:
    """Every step with its codes, what they mean and what to do."""
    rows = ["| step | code | means | remedy |", "|---|---|---|---|"]
    for number in STEPS:
        found = [(code, known) for code, known in CODES.items() if number in known.steps]
        for code, known in found:
            rows.append(f"| {label(number)} | `{code}` | {known.meaning} | {known.remedy} |")
    return "\n".join(rows)


def profiles() -> str:
    """Each profile, part by part."""
    rows = ["| part | key | " + " | ".join(f"`{name}`" for name in PROFILES) + " |", "|---|---|---|---|---|"]
    parts: list[tuple[str, str, Callable[[TcbRule], str]]] = [
        ("accepted statuses", "statuses", lambda rule: ", ".join(rule.statuses)),
        (
            "advisories tolerated",
            "advisories_tolerated",
            lambda rule: "any" if rule.advisories_tolerated == ANY else ", ".join(rule.advisories_tolerated) or "none",
        ),
        ("advisories refused", "advisories_refused", lambda rule: ", ".join(rule.advisories_refused) or "none by name"),
        ("grace for stale statuses", "grace_days", lambda rule: f"{rule.grace_days} days"),
        ("least evaluation number", "min_evaluation_number", lambda rule: str(rule.min_evaluation_number)),
        ("least date of the TCB level", "min_tcb_date", lambda rule: str(rule.min_tcb_date or "none")),
        ("hyper-threading", "smt", lambda rule: _word(rule.smt)),
        ("dynamic platform", "dynamic_platform", lambda rule: _word(rule.dynamic_platform)),
        ("cached keys", "cached_keys", lambda rule: _word(rule.cached_keys)),
    ]
    for name, key, value in parts:
        rows.append(f"| {name} | `{key}` | " + " | ".join(value(rule) for rule in PROFILES.values()) + " |")
    return "\n".join(rows)


def _word(accepted: bool) -> str:
    return "accepted" if accepted else "refused unless denied by the certificate"


def platforms() -> str:
    """What each real platform gets under each profile, at the time of its collateral."""
    names = list(PROFILES)
    rows = [
        "| quote | platform | TCB status | advisories | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for real in real_quotes():
        if "expect" in real.entry:
            rows.append(_platform(real, names))
    return "\n".join(rows)


def _platform(real: RealQuote, names: list[str]) -> str:
    now = float(real.entry["expect"]["now"])
    title = f"| {str(real.entry['file']).removesuffix('.bin')} | {real.entry['fmspc']}, {real.entry['ca']} |"
    try:
        case = Scene(real.raw, real.collateral, TrustRoot.intel(), now, parse_quote(real.raw).report_data)
        claims = case.appraise()
    except ClfError as error:
        return f"{title} `{error.code}` | | " + " | ".join("refused" for _ in names) + " |"
    found = claims.platform
    answers = " | ".join(_answer(claims, PROFILES[name], now) for name in names)
    return f"{title} {found.tcb_status} | {', '.join(found.advisories) or 'none'} | {answers} |"


def _answer(claims: Claims, tcb: TcbRule, now: float) -> str:
    decision = enclave_known(Policy("intel", (rule_for(claims, tcb),)), claims, now)
    return "accepted" if decision else decision.step


TABLES: Final[dict[str, Callable[[], str]]] = {"steps": steps, "profiles": profiles, "platforms": platforms}


def table_of(page: str, name: str) -> str:
    """A table as it stands in a page. Raises ValueError where it does not."""
    found = re.search(rf"<!-- {name}: generated -->\n\n(.*?)\n\n<!-- end -->", page, re.DOTALL)
    if found is None:
        raise ValueError(f"no generated table {name!r}")
    return found[1]


def _framed(name: str, table: str) -> str:
    return f"<!-- {name}: generated -->\n\n{table}\n\n<!--"


def main() -> None:
    """Write the tables into the page."""
    page = PAGE.read_text()
    for name, make in TABLES.items():
        page = page.replace(_framed(name, table_of(page, name)), _framed(name, make()))
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
