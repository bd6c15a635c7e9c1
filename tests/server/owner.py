# SPDX-License-Identifier: Apache-2.0
"""An owner's file and folder to start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from clf.errors import ConfigError
from clf.server.config import Collateral, ServerConfig, parse_config
from clf.server.setup import Made, init

NOW = 1_800_000_000.0
HEX = "00" + "ab" * 31
TEXT = f"""\
# the owner's own words
[server]
listen = "0.0.0.0:4433"
admin = "127.0.0.1:9433"
data = "data"
results = "results"
state = "state"
keys = "keys"

[server.tls]
certificate = "keys/tls/server.crt"
key = "keys/tls/server.key"

[server.limits]
transfer_idle_seconds = 60

[attestation]
trust = "intel"
collateral = {{ pcs = true }}
max_age_hours = 24
min_tcb_evaluation_number = 17

[enclave.trainer]
mrenclave = ["{HEX}"]
platforms = "any"
tcb = "standard"

[key.model]
file = "keys/named/model.key"

[[grant]]
name = "trainer-read"
enclave = "trainer"
actions = ["read"]
paths = ["patients/*.csv"]
max_runs = 10
max_bytes = "unlimited"
until = 2030-01-31T00:00:00Z

[[grant]]
name = "trainer-key"
enclave = "trainer"
actions = ["key"]
keys = ["model"]
max_runs = "unlimited"
"""


def changed(old: str, new: str) -> str:
    """TEXT with one piece replaced; the piece must be there once."""
    assert TEXT.count(old) == 1, old
    return TEXT.replace(old, new)


def read(text: str = TEXT, folder: Path = Path("/owner")) -> ServerConfig:
    """The configuration that a text describes."""
    return parse_config(text.encode(), folder)


def refusal(text: str) -> ConfigError:
    """The error that a text is refused with."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value


def make(folder: Path, *, hosts: tuple[str, ...] = ("localhost", "127.0.0.1"), now: float = NOW) -> Made:
    """An owner's folder that trusts Intel."""
    return init(
        folder,
        trust="intel",
        collateral=Collateral("pcs"),
        simulation_root=None,
        hosts=list(hosts),
        listen="127.0.0.1:4433",
        admin="127.0.0.1:9433",
        now=now,
    )
