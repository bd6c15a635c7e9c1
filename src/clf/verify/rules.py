# SPDX-License-Identifier: Apache-2.0
"""What an owner's policy consists of, as values that cannot be half filled in.

Every rule says what it accepts; there is no value that means "not checked" except the word "any", written out. A rule
that would accept nothing, or something by accident, is refused when it is made (ConfigError), so that the decision in
`clf.verify.policy` has no special cases.

Measurements are `bytes` in the byte order of the quote; times are seconds since the epoch; sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from clf.errors import ConfigError, WireError
from clf.verify.claims import TCB_STATUSES, Tee
from clf.wire.paths import check_glob
from clf.wire.request import ACTIONS, Action

Trust = Literal["intel", "simulation"]
Any_ = Literal["any"]
ANY: Final[Any_] = "any"
"""Written out by an owner who does not want to limit platforms, advisories or TDX modules."""

PATH_ACTIONS: Final[tuple[Action, ...]] = ("read", "write", "list")
BYTE_ACTIONS: Final[tuple[Action, ...]] = ("read", "write")
"""Actions whose bytes are counted against a grant's `max_bytes`."""

STALE_STATUSES: Final = (
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
"""Statuses of a platform that lacks an update: accepted only within a grace period, and only if the rule names them."""

SHA256_BYTES: Final = 32
SHA384_BYTES: Final = 48
PPID_HEX_DIGITS: Final = 32


def _require(holds: bool, fieldname: str, message: str, remedy: str = "") -> None:
    if not holds:
        raise ConfigError(f"{fieldname}: {message}", field=fieldname, remedy=remedy)


def _measurements(values: Any, size: int, fieldname: str) -> None:
    _require(isinstance(values, tuple), fieldname, "must be a list of measurements")
    _require(bool(values), fieldname, "is empty, so it would accept nobody", "write at least one measurement")
    for value in values:
        fits = isinstance(value, bytes) and len(value) == size
        _require(fits, fieldname, f"a measurement has {size} bytes ({2 * size} hex digits)")
    _require(len(set(values)) == len(values), fieldname, "names a measurement twice")


def _number(value: Any, fieldname: str, most: int = (1 << 63) - 1) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and 0 <= value <= most, fieldname, f"{value!r} is not a whole number from 0 to {most}")


@dataclass(frozen=True)
class TcbRule:
    """Which state of a platform's updates is good enough.

    statuses              accepted TCB statuses (clf.verify.claims.TCB_STATUSES)
    advisories_refused    advisories that refuse a platform whatever else holds
    advisories_tolerated  advisories that a platform may have; any other one refuses it. "any" tolerates all
    grace_days            how long ago the TCB level of a stale platform may date
    grace                 the same for single statuses, as pairs of status and days; they go before grace_days
    min_evaluation_number lowest TCB evaluation data number, in addition to the policy's own
    min_tcb_date          earliest date of the platform's TCB level (tcbDate), whatever its status; 0 for none
    smt, dynamic_platform, cached_keys
                          whether hyper-threading, later added CPU packages, and keys kept by Intel's registration
                          service are acceptable. Where not, only a certificate that denies it is: one that is silent
                          is refused.
    """

    statuses: tuple[str, ...]
    advisories_tolerated: tuple[str, ...] | Any_
    advisories_refused: tuple[str, ...] = ()
    grace_days: int = 0
    min_evaluation_number: int = 0
    smt: bool = False
    dynamic_platform: bool = False
    cached_keys: bool = False
    grace: tuple[tuple[str, int], ...] = ()
    min_tcb_date: int = 0

    def grace_of(self, status: str) -> int:
        """The days of grace for one status."""
        return dict(self.grace).get(status, self.grace_days)

    def __post_init__(self) -> None:
        _require(isinstance(self.statuses, tuple) and bool(self.statuses), "tcb.statuses", "accepts no status at all")
        for status in self.statuses:
            _require(
                status in TCB_STATUSES,
                "tcb.statuses",
                f"{status!r} is not a TCB status that can be accepted",
                f"one of {', '.join(TCB_STATUSES)}",
            )
        _number(self.grace_days, "tcb.grace_days", 36500)
        _number(self.min_evaluation_number, "tcb.min_evaluation_number", (1 << 31) - 1)
        _number(self.min_tcb_date, "tcb.min_tcb_date")
        for status, days in self.grace:
            known = status in STALE_STATUSES and status in self.statuses
            _require(known, "tcb.grace_days", f"{status!r} is not a stale status that this rule accepts")
            _number(days, f"tcb.grace_days.{status}", 36500)
        stale = [status for status in self.statuses if status in STALE_STATUSES and not self.grace_of(status)]
        _require(
            not stale,
            "tcb.grace_days",
            f"{', '.join(stale)} accepted without a grace period would still accept nobody",
            "set grace_days, or leave these statuses out",
        )
        for name in ("advisories_tolerated", "advisories_refused"):
            value = getattr(self, name)
            if name == "advisories_tolerated" and value == ANY:
                continue
            _require(isinstance(value, tuple), f"tcb.{name}", "must be a list of advisories")
            for advisory in value:
                fits = isinstance(advisory, str) and advisory.startswith("INTEL-SA-")
                _require(fits, f"tcb.{name}", f"{advisory!r} is not an advisory", "write them like 'INTEL-SA-00615'")
        for name in ("smt", "dynamic_platform", "cached_keys"):
            _require(isinstance(getattr(self, name), bool), f"tcb.{name}", "must be true or false")


STRICT: Final = TcbRule(statuses=("UpToDate",), advisories_tolerated=())
"""Nothing outstanding, no hyper-threading. No SGX server in operation that we know of gets that far."""

STANDARD: Final = TcbRule(
    statuses=("UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"),
    # LVI and MMIO stale data: Intel keeps both on fully updated processors, because their mitigation is in how the
    # enclave is built. Advisories that the host could exploit by configuration (INTEL-SA-00289, voltage) stay refused.
    advisories_tolerated=("INTEL-SA-00334", "INTEL-SA-00615"),
    smt=True,
    dynamic_platform=True,
    cached_keys=True,
)
"""All updates installed; what is left is known, and up to the enclave's own code."""

LENIENT: Final = TcbRule(
    statuses=TCB_STATUSES,
    advisories_tolerated=ANY,
    grace_days=365,
    smt=True,
    dynamic_platform=True,
    cached_keys=True,
)
"""Updates may be missing for a year. For data that a determined operator of the platform may be worth losing to."""

PROFILES: Final = {"strict": STRICT, "standard": STANDARD, "lenient": LENIENT}


@dataclass(frozen=True)
class SgxRule:
    """Which SGX enclave: by what it is (`mrenclave`), or by who signed it (`mrsigner`), never both, never neither.

    With `mrsigner`, `product_id` is exact and `min_svn` a minimum, and `delegates_to_signer` must be true: the owner
    then trusts everything that this signer ever signs for the product. The KSS fields are exact; they are zero in an
    enclave that does not use them.
    """

    mrenclave: tuple[bytes, ...] = ()
    mrsigner: tuple[bytes, ...] = ()
    product_id: int | None = None
    min_svn: int | None = None
    delegates_to_signer: bool = False
    config_id: bytes = bytes(64)
    config_svn: int = 0
    family_id: bytes = bytes(16)
    ext_prod_id: bytes = bytes(16)

    def __post_init__(self) -> None:
        if self.mrsigner:
            _require(not self.mrenclave, "mrsigner", "stands beside mrenclave", "write one of the two")
            _measurements(self.mrsigner, SHA256_BYTES, "mrsigner")
            _require(
                self.delegates_to_signer is True,
                "delegates_to_signer",
                "whoever is accepted by mrsigner may be changed by the signer at any time",
                "write delegates_to_signer = true if the owner means that, or name mrenclave values",
            )
            for name in ("product_id", "min_svn"):
                _require(
                    getattr(self, name) is not None, name, "mrsigner needs it", "write a number; nothing is assumed"
                )
                _number(getattr(self, name), name, 0xFFFF)
        else:
            _measurements(self.mrenclave, SHA256_BYTES, "mrenclave")
            for name in ("product_id", "min_svn"):
                _require(
                    getattr(self, name) is None, name, "belongs to mrsigner", "an mrenclave says it all: remove it"
                )
            _require(self.delegates_to_signer is False, "delegates_to_signer", "belongs to mrsigner")
        for name, size in (("config_id", 64), ("family_id", 16), ("ext_prod_id", 16)):
            value = getattr(self, name)
            _require(isinstance(value, bytes) and len(value) == size, name, f"must have {size} bytes")
        _number(self.config_svn, "config_svn", 0xFFFF)


@dataclass(frozen=True)
class TdxRule:
    """Which trust domain: what it started from and every runtime register, each a list of accepted values.

    `mr_seam` lists accepted TDX modules, or is "any": any module of the signer, as the TCB level judges it. The signer,
    `mr_signer_seam`, is exact, and zero for Intel's modules. The three configuration values are exact, zero where the
    launcher does not set them.

    TDX measures a machine. The app is measured by `clf run`, which extends its digest into RTMR3 (clf/attest/rtmr.py):
    a register of zeros says that nobody did, and is accepted only with `app_in_image`, where the app is part of what
    the other registers measure.

    `td_attributes` are exact, 8 bytes in the quote's order. None accepts those that only strengthen a trust domain
    beside SEPT_VE_DISABLE (LASS, PKS, key locker), and no performance monitoring.
    """

    mr_td: tuple[bytes, ...]
    rtmr0: tuple[bytes, ...]
    rtmr1: tuple[bytes, ...]
    rtmr2: tuple[bytes, ...]
    rtmr3: tuple[bytes, ...]
    mr_seam: tuple[bytes, ...] | Any_
    mr_config_id: bytes = bytes(SHA384_BYTES)
    mr_owner: bytes = bytes(SHA384_BYTES)
    mr_owner_config: bytes = bytes(SHA384_BYTES)
    mr_signer_seam: bytes = bytes(SHA384_BYTES)
    td_attributes: bytes | None = None
    app_in_image: bool = False

    def __post_init__(self) -> None:
        for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3"):
            _measurements(getattr(self, name), SHA384_BYTES, name)
        if self.mr_seam != ANY:
            _measurements(self.mr_seam, SHA384_BYTES, "mr_seam")
        for name in ("mr_config_id", "mr_owner", "mr_owner_config", "mr_signer_seam"):
            value = getattr(self, name)
            _require(isinstance(value, bytes) and len(value) == SHA384_BYTES, name, f"must have {SHA384_BYTES} bytes")
        if self.td_attributes is not None:
            fits = isinstance(self.td_attributes, bytes) and len(self.td_attributes) == 8
            _require(fits, "td_attributes", "must have 8 bytes")
        _require(isinstance(self.app_in_image, bool), "app_in_image", "must be true or false")
        unused = bytes(SHA384_BYTES) in self.rtmr3
        _require(
            not unused or self.app_in_image,
            "rtmr3",
            "zero means that no app was measured: any app could run in this trust domain",
            "clf measure --tdx-rtmr APP prints the value; app_in_image = true if the image measures the app",
        )


@dataclass(frozen=True)
class EnclaveRule:
    """One enclave that the owner knows by name: its identity, where it may run, and how well kept that place must be.

    `platforms` lists PPIDs (32 lower-case hex digits each), or is "any". Exactly one of `sgx` and `tdx` is set.
    """

    name: str
    platforms: tuple[str, ...] | Any_
    tcb: TcbRule = STANDARD
    sgx: SgxRule | None = None
    tdx: TdxRule | None = None

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str) and bool(self.name), "enclave", "has no name")
        _require((self.sgx is None) != (self.tdx is None), "enclave", "is either an SGX enclave or a trust domain")
        if self.platforms == ANY:
            return
        _require(isinstance(self.platforms, tuple), "platforms", 'must be a list of PPIDs, or "any" written out')
        _require(bool(self.platforms), "platforms", "is empty, so it would accept nobody", 'write PPIDs, or "any"')
        for ppid in self.platforms:
            fits = isinstance(ppid, str) and len(ppid) == PPID_HEX_DIGITS and not ppid.strip("0123456789abcdef")
            _require(fits, "platforms", f"{ppid!r} is not a PPID", f"{PPID_HEX_DIGITS} lower-case hex digits")

    @property
    def tee(self) -> Tee:
        """The kind of TEE that the rule describes."""
        return "sgx" if self.sgx is not None else "tdx"


@dataclass(frozen=True)
class KeyRule:
    """A named key and the file that holds it. The bytes are read when the key is released, not before."""

    name: str
    file: str
    """As written: relative to the owner's folder, or absolute."""


@dataclass(frozen=True)
class Grant:
    """What one enclave may do. Its counters are kept under its name.

    max_runs   how many runs of the app (None: the owner wrote "unlimited")
    max_bytes  how many bytes may be read or written under this grant (None: "unlimited", or nothing is counted)
    until      from this time on the grant is over (None: no end)
    """

    name: str
    enclave: str
    actions: tuple[Action, ...]
    paths: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    max_runs: int | None = field(kw_only=True)
    max_bytes: int | None = field(kw_only=True, default=None)
    until: int | None = field(kw_only=True, default=None)

    def __post_init__(self) -> None:
        for name in ("actions", "paths", "keys"):
            value = getattr(self, name)
            _require(isinstance(value, tuple), name, "must be a list")
            _require(len(set(value)) == len(value), name, "names something twice")
        _require(bool(self.name), "name", "a grant needs a name: its counters are kept under it")
        _require(bool(self.actions), "actions", "is empty, so it would grant nothing", f"some of {', '.join(ACTIONS)}")
        for action in self.actions:
            _require(action in ACTIONS, "actions", f"{action!r} is not an action", f"some of {', '.join(ACTIONS)}")
        on_paths = [action for action in self.actions if action in PATH_ACTIONS]
        if on_paths:
            _require(bool(self.paths), "paths", f"{on_paths[0]} needs paths", "write globs like 'patients/*.csv'")
        else:
            _require(not self.paths, "paths", "no action of this grant concerns paths", "remove it, or add an action")
        if "key" in self.actions:
            _require(bool(self.keys), "keys", "key needs the names of keys", "write keys = [...]")
        else:
            _require(
                not self.keys, "keys", "no action of this grant releases keys", 'add "key" to actions, or remove it'
            )
        for glob in self.paths:
            try:
                check_glob(glob)
            except WireError as error:
                raise ConfigError(f"paths: {error.message}", field="paths", remedy=error.remedy) from None
        for name in ("max_runs", "max_bytes", "until"):
            if getattr(self, name) is not None:
                _number(getattr(self, name), name)
        for name in ("max_runs", "max_bytes"):
            _require(getattr(self, name) != 0, name, "0 grants nothing", "remove the grant, or write a larger number")


@dataclass(frozen=True)
class Policy:
    """Everything that an owner allows. The empty policy allows nothing.

    `digest` is the SHA-256 (hex) of the file that it was read from: audit entries name it.
    """

    trust: Trust
    enclaves: tuple[EnclaveRule, ...] = ()
    grants: tuple[Grant, ...] = ()
    keys: tuple[KeyRule, ...] = ()
    min_tcb_evaluation_number: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        _require(self.trust in ("intel", "simulation"), "trust", f"{self.trust!r} is not a trust root")
        _number(self.min_tcb_evaluation_number, "min_tcb_evaluation_number", (1 << 31) - 1)
        for kind, names in (
            ("enclave", [rule.name for rule in self.enclaves]),
            ("grant", [grant.name for grant in self.grants]),
            ("key", [key.name for key in self.keys]),
        ):
            twice = {name for name in names if names.count(name) > 1}
            _require(not twice, kind, f"the name {', '.join(sorted(twice))!r} is used twice", "give each its own name")
        for grant in self.grants:
            _require(
                any(rule.name == grant.enclave for rule in self.enclaves),
                "enclave",
                f"grant {grant.name!r} names the enclave {grant.enclave!r}, which is not described",
            )
            for name in grant.keys:
                known = any(key.name == name for key in self.keys)
                _require(known, "keys", f"grant {grant.name!r} names the key {name!r}, which is not described")

    def grant(self, name: str) -> Grant | None:
        """The grant of that name."""
        return next((grant for grant in self.grants if grant.name == name), None)

    def enclave(self, name: str) -> EnclaveRule | None:
        """The enclave rule of that name."""
        return next((rule for rule in self.enclaves if rule.name == name), None)

    def key(self, name: str) -> KeyRule | None:
        """The key of that name."""
        return next((key for key in self.keys if key.name == name), None)
