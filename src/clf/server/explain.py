# SPDX-License-Identifier: Apache-2.0
"""`clf server check`: is this folder fit to run, and what does its policy allow, in plain sentences.

Problems keep a server from starting or break a promise; warnings are for a person to judge. Nothing is changed, no key
is shown, and the network is not touched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from clf.errors import ClfError, ConfigError
from clf.server import certificates
from clf.server.config import Address, ServerConfig, load
from clf.server.config_s3 import Bucket
from clf.server.keys import load_identity, load_keyring, load_private_key, read_named_key
from clf.server.postgresql import check_settings
from clf.server.rotation import interrupted
from clf.server.s3_client import check_bucket
from clf.server.setup import load_certificate
from clf.strict_toml import read_file
from clf.verify.rules import ANY, PROFILES, EnclaveRule, Grant, Policy, TcbRule
from clf.verify.trust import TrustRoot

SIMULATION_WARNING: Final = (
    "SIMULATION: this owner accepts simulated enclaves, which PROTECT NOTHING. Never put confidential data here."
)
EXPIRY_WARNING_DAYS: Final = 30
DAY_SECONDS: Final = 86_400


@dataclass(frozen=True)
class Finding:
    """One problem or warning: what is wrong, and what to do about it."""

    message: str
    remedy: str = ""


@dataclass
class Report:
    """The result of a check. `ok` is true if a server could run on this folder."""

    folder: str
    trust: str = ""
    identity: str = ""
    digest: str = ""
    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"ok": self.ok, "simulated": self.trust == "simulation", **asdict(self)}


def check(folder: Path, now: float) -> Report:
    """Check an owner's folder. A configuration that cannot be read is its one problem; never raises ClfError."""
    report = Report(str(folder))
    try:
        config = load(folder)
    except ConfigError as error:
        report.problems.append(Finding(error.message, error.remedy))
        return report
    report.trust, report.digest = config.trust, config.digest
    if config.trust == "simulation":
        report.warnings.append(Finding(SIMULATION_WARNING, 'real data needs trust = "intel" and a fresh folder'))
    _check_files(config, report)
    _check_certificate(config, report, now)
    report.warnings += [Finding(message, remedy) for message, remedy in interrupted(config)]
    _check_policy(config.policy, report, now)
    report.sentences = sentences(config, now)
    return report


def _check_files(config: ServerConfig, report: Report) -> None:
    def attempt(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except ClfError as error:
            report.problems.append(Finding(error.message, error.remedy))
            return None

    identity = attempt(lambda: load_identity(config.identity_file))
    report.identity = identity.thumbprint if identity else ""
    attempt(lambda: load_private_key(config.audit_key_file, "audit key"))
    attempt(lambda: load_keyring(config.challenge_keyring))
    attempt(lambda: load_keyring(config.transfer_keyring))
    attempt(lambda: load_private_key(config.tls_key, "tls.key"))
    for key in config.policy.keys:
        attempt(lambda key=key: read_named_key(config.folder / key.file, key.name))  # type: ignore[misc]
    if config.state_url is not None:
        url = config.state_url
        attempt(lambda: check_settings(url))
    if config.simulation_root is not None:
        root = config.simulation_root
        attempt(lambda: TrustRoot.simulation_pem(read_file(root)))
    if config.collateral.kind == "folder" and not os.path.isdir(config.collateral.location):
        report.problems.append(
            Finding(f"collateral: {config.collateral.location} is not a folder", "create or name it")
        )
    for name in ("data", "results", "state", "keys"):
        place = getattr(config, name)
        if isinstance(place, Bucket):
            attempt(lambda place=place, name=name: check_bucket(place, name))  # type: ignore[misc]
        else:
            _check_folder(name, place, report)


def _check_folder(name: str, path: Path, report: Report) -> None:
    if not os.path.isdir(path):  # Path's raises where it may not look
        report.problems.append(Finding(f"{name}: {path} is not a folder", "create it, or correct [server]"))
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if not os.access(path, os.R_OK | os.X_OK | (0 if name in ("data", "keys") else os.W_OK)):
        report.problems.append(Finding(f"{name}: this user may not use {path}", "run as the owner's user"))
    if mode & 0o022 or (name != "data" and mode & 0o077):
        finding = Finding(f"{name}: others on this machine may use {path} (mode {mode:04o})", f"chmod 700 {path}")
        # What others may write, they decide: files to release, keys, counters. What they may read is the owner's call.
        (report.problems if mode & 0o022 or name == "keys" else report.warnings).append(finding)


def _check_certificate(config: ServerConfig, report: Report, now: float) -> None:
    renew = "clf server renew --host NAME"
    try:
        certificate = load_certificate(config.tls_certificate, "tls.certificate")
        key = load_private_key(config.tls_key, "tls.key")
    except ConfigError as error:
        if not any(finding.message == error.message for finding in report.problems):
            report.problems.append(Finding(error.message, error.remedy))
        return
    if certificate.public_key() != key.public_key():
        report.problems.append(Finding("tls: certificate and key do not belong together", renew))
    ends = certificate.not_valid_after_utc
    left = (ends.timestamp() - now) / DAY_SECONDS
    if left <= 0:
        report.problems.append(Finding(f"tls: the certificate ended on {ends:%Y-%m-%d}", renew))
    elif left < EXPIRY_WARNING_DAYS:
        report.warnings.append(Finding(f"tls: the certificate ends on {ends:%Y-%m-%d}", renew))
    if certificate.not_valid_before_utc.timestamp() > now:
        report.problems.append(Finding("tls: the certificate is not valid yet", "check this machine's clock"))
    hosts = certificates.hosts_of(certificate)
    if not hosts:
        report.problems.append(Finding("tls: the certificate names no host", renew))
    elif _is_particular(config.listen) and config.listen.host not in hosts:
        names = ", ".join(hosts)
        report.warnings.append(Finding(f"tls: the certificate names {names}, not {config.listen.host}", renew))


def _is_particular(address: Address) -> bool:
    return address.host not in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def _check_policy(policy: Policy, report: Report, now: float) -> None:
    if not policy.grants:
        report.warnings.append(Finding("nothing is granted: every request will be refused", "clf server allow --help"))
    for grant in policy.grants:
        if grant.until is not None and grant.until <= now:
            report.warnings.append(
                Finding(f"grant {grant.name} ended on {_day(grant.until)}", f"clf server revoke {grant.enclave}")
            )
    for rule in policy.enclaves:
        if not any(grant.enclave == rule.name for grant in policy.grants):
            report.warnings.append(Finding(f"enclave {rule.name} is described, but nothing is granted to it"))
        if rule.sgx is not None and rule.sgx.mrsigner:
            report.warnings.append(
                Finding(
                    f"enclave {rule.name} is known by its signer, who can change the app at any time",
                    "name mrenclave values, unless the signer is trusted as the owner is",
                )
            )
    for key in policy.keys:
        if not any(key.name in grant.keys for grant in policy.grants):
            report.warnings.append(Finding(f"key {key.name} is described, but granted to nobody"))


# --- sentences -----------------------------------------------------------------------------------


def sentences(config: ServerConfig, now: float) -> list[str]:
    """What the policy says, one statement each."""
    policy = config.policy
    who = (
        "real processors, by Intel's root" if config.trust == "intel" else "SIMULATED platforms, which protect nothing"
    )
    source = {"pcs": "Intel's PCS", "pccs": config.collateral.location, "folder": config.collateral.location}
    said = [
        f"Trusts {who}; collateral comes from {source[config.collateral.kind]}, is at most "
        f"{config.max_age_hours} hours old and has at least evaluation number {policy.min_tcb_evaluation_number}.",
        *(
            f"{name.capitalize()} are in {place}, at {place.endpoint or 'Amazon S3'}, region {place.region}."
            for name, place in (("data", config.data), ("results", config.results))
            if isinstance(place, Bucket)
        ),
        *([f"State and audit log are in {config.state_url.name}."] if config.state_url else []),
        f"Listens on {config.listen}; health and metrics are on {config.admin}.",
    ]
    for rule in policy.enclaves:
        said.append(describe_enclave(rule))
        said.extend(
            f"  {rule.name} may {describe_grant(grant, now)}." for grant in policy.grants if grant.enclave == rule.name
        )
    said.append("Everything else is refused." if policy.grants else "Everything is refused.")
    return said


def describe_enclave(rule: EnclaveRule) -> str:
    """Who an enclave is, where it may run, and how well kept that place must be."""
    if rule.sgx is not None and rule.sgx.mrsigner:
        signers = " or ".join(value.hex()[:16] + "..." for value in rule.sgx.mrsigner)
        who = (
            f"is whatever {signers} signed as product {rule.sgx.product_id} "
            f"with security version {rule.sgx.min_svn} or later"
        )
    elif rule.sgx is not None:
        who = "is SGX enclave " + " or ".join(value.hex()[:16] + "..." for value in rule.sgx.mrenclave)
    elif rule.tdx is not None:
        apps = " or ".join(value.hex()[:16] + "..." for value in rule.tdx.rtmr3)
        what = "the app of its image" if rule.tdx.app_in_image else f"the app with rtmr3 {apps}"
        who = f"is TDX domain {' or '.join(value.hex()[:16] + '...' for value in rule.tdx.mr_td)} with {what}"
    else:  # unreachable: a rule has one of the two
        who = "is nobody"
    where = "any platform" if rule.platforms == ANY else f"{len(rule.platforms)} listed platform(s)"
    return f"Enclave {rule.name} {who}, on {where}, {describe_tcb(rule.tcb)}."


def describe_tcb(rule: TcbRule) -> str:
    """The state of updates that is good enough."""
    profile = next((name for name, value in PROFILES.items() if value == rule), None)
    tolerated = "any" if rule.advisories_tolerated == ANY else ", ".join(rule.advisories_tolerated) or "none"
    grace = f", stale ones for {rule.grace_days} days" if rule.grace_days else ""
    grace += "".join(f", {status} for {days} days" for status, days in rule.grace)
    least = f"; TCB level of {_day(rule.min_tcb_date)[:10]} or later" if rule.min_tcb_date else ""
    refused = f"; advisories refused: {', '.join(rule.advisories_refused)}" if rule.advisories_refused else ""
    name = f"TCB {profile}" if profile else "TCB as described"
    return f"{name} (status {', '.join(rule.statuses)}{grace}{least}; advisories tolerated: {tolerated}{refused})"


def describe_grant(grant: Grant, now: float) -> str:
    """What a grant allows, as the rest of a sentence that begins with the enclave's name and "may"."""
    parts: list[str] = []
    on_paths = [action for action in grant.actions if action != "key"]
    if on_paths:
        parts.append(f"{' and '.join(on_paths)} {', '.join(grant.paths)}")
    if grant.keys:
        parts.append(f"receive the key {', '.join(grant.keys)}")
    runs = "any number of runs" if grant.max_runs is None else f"at most {grant.max_runs} run(s)"
    limits = [f"in {runs}"]
    if any(action in ("read", "write") for action in grant.actions):
        limits.append("any number of bytes" if grant.max_bytes is None else f"at most {grant.max_bytes:,} bytes in all")
    if grant.until is not None:
        limits.append(f"{'ended' if grant.until <= now else 'until'} {_day(grant.until)}")
    return f"{', and '.join(parts)}, {', '.join(limits)} (grant {grant.name})"


def _day(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")
