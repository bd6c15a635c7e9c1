# SPDX-License-Identifier: Apache-2.0
"""The commented `clf_server.toml` that `clf server init` writes: an owner learns the policy from it."""

from __future__ import annotations

from typing import Final

import tomlkit

from clf.server.config import Collateral
from clf.server.config_model import Limits, Rotation
from clf.verify.rules import Trust

FIRST_EVALUATION_NUMBER: Final = {"intel": 18, "simulation": 1}
"""Intel's collateral of early 2026 has 18; older collateral would hide what was found since."""

_TEMPLATE: Final = """\
# What this owner releases, to which enclaves, and under which conditions.
# Everything that is not allowed here is refused. An unknown key is an error.
#
#   clf server check     says in plain sentences what this file allows
#   clf server allow     adds to it, clf server revoke takes away
#   clf server reload    makes a running server follow it

[server]
listen = {listen}    # where enclave apps connect
admin = {admin}    # health and metrics; loopback only
data = "data"          # what may be released
results = "results"    # what comes back
state = "state"        # counters, open transfers, audit log
keys = "keys"          # identity, certificates, keyrings; keys to release in keys/named/
workers = 1            # server processes

[server.tls]
certificate = "keys/tls/server.crt"
key = "keys/tls/server.key"

# Times in seconds, sizes in bytes. A line without its '#' changes the default.
[server.limits]
{limits}

# What a running server renews by itself, in days; 0: only by clf server rotate.
[server.rotation]
{rotation}

# Counters, transfers and audit log are files in the state folder, unless several servers share a database:
# docs/replicas.md
#
# [state]
# url = "postgresql://clf@db.example:5432/clf?sslmode=verify-full&sslrootcert=/etc/clf/db-ca.pem"
# password_file = "/etc/clf/db-password"    # PostgreSQL's own form: *:*:*:clf:PASSWORD

[attestation]
{trust}
collateral = {collateral}    # one of: {{ pccs = "https://..." }}, {{ pcs = true }} (Intel's), {{ folder = "..." }}
max_age_hours = 168    # older collateral is refused
min_tcb_evaluation_number = {evaluation}    # collateral from before this evaluation is refused

# An enclave that you know, by what it is (clf measure prints it):
#
# [enclave.trainer]
# mrenclave = ["64 hex digits"]
# platforms = "any"    # or a list of PPIDs: the processors where it may run
# tcb = "standard"     # or "strict", "lenient", or {{ profile = "standard", advisories_tolerated = [...] }}
#
# What it may do. One grant must allow the whole of a request; grants are never added up.
#
# [[grant]]
# name = "trainer-read"
# enclave = "trainer"
# actions = ["read"]             # read, list, write, key
# paths = ["patients/*.csv"]     # * and ? within a name, ** for any folders
# max_runs = 10                  # how often the app may be started; or "unlimited"
# max_bytes = 100000000          # in all; or "unlimited"
# until = 2030-01-31T00:00:00Z   # may be left out
"""

_INTEL: Final = 'trust = "intel"    # real processors only'
_SIMULATION: Final = """\
# SIMULATION: enclaves are simulated and PROTECT NOTHING. For development, never for confidential data.
trust = "simulation"
simulation_root = {root}"""


def render(*, trust: Trust, collateral: Collateral, listen: str, admin: str, simulation_root: str | None) -> str:
    """The file's text; what was given appears as TOML strings, so nothing in it can add a line."""
    source = {"pcs": "{ pcs = true }"}.get(collateral.kind, f"{{ {collateral.kind} = {_quoted(collateral.location)} }}")
    return _TEMPLATE.format(
        listen=_quoted(listen),
        admin=_quoted(admin),
        limits="\n".join(f"# {name} = {field.default}" for name, field in Limits.model_fields.items()),
        rotation="\n".join(f"# {name} = {field.default}" for name, field in Rotation.model_fields.items()),
        trust=_INTEL if trust == "intel" else _SIMULATION.format(root=_quoted(simulation_root or "")),
        collateral=source,
        evaluation=FIRST_EVALUATION_NUMBER[trust],
    )


def _quoted(text: str) -> str:
    return tomlkit.string(text).as_string()
