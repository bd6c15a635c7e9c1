# SPDX-License-Identifier: Apache-2.0
"""Files that a person writes: an owner's clf_server.toml and an app's clf.toml.

What is accepted is usable: every grant names an enclave that is there and paths of the grammar, and nothing is allowed
that the file does not say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from clf.app import config as app_config
from clf.client.http import parse_url
from clf.errors import ClfError
from clf.server.config import Collateral, parse_config
from clf.server.config_s3 import Bucket
from clf.server.template import render
from clf.wire.paths import check_glob
from tests.fuzz.wrong import WrongAcceptError

FOLDER = Path("/owner")
_POLICY = """
[enclave.trainer]
mrenclave = ["{hex64}"]
platforms = "any"
tcb = {{ profile = "standard", advisories_tolerated = ["INTEL-SA-00615"], grace_days = 30 }}

[enclave.signed]
mrsigner = ["{hex64}"]
product_id = 1
min_svn = 2
delegates_to_signer = true
platforms = ["{hex32}"]

[enclave.domain]
mr_td = ["{hex96}"]
rtmr0 = ["{hex96}"]
rtmr1 = ["{hex96}"]
rtmr2 = ["{hex96}"]
rtmr3 = ["{hex96}"]
mr_seam = "any"
platforms = "any"

[key.model]
file = "keys/named/model.key"

[[grant]]
name = "trainer-read"
enclave = "trainer"
actions = ["read", "list"]
paths = ["patients/*.csv", "**"]
max_runs = 10
max_bytes = "unlimited"
until = 2030-01-31T00:00:00Z

[[grant]]
name = "key"
enclave = "signed"
actions = ["key"]
keys = ["model"]
max_runs = "unlimited"
""".format(hex32="0a" * 16, hex64="ab" * 32, hex96="cd" * 48)
_STORES = """
[data]
url = "s3://hospital/released/"
region = "eu-central-1"
endpoint = "http://127.0.0.1:9000"
path_style = true
ca = "s3.crt"
credentials = "keys/s3.ini"

[results]
url = "s3://hospital/results/"
region = "us-east-1"
"""
_APP = f"""\
[app]
name = "trainer"
command = ["python", "train.py"]
files = ["train.py", "lib/**"]
memory = "512M"
threads = 8

[app.environment]
MODE = "full"

[owner.hospital-a]
url = "https://hospital-a.example:4433"
ca = "hospital-a.crt"
identity = ["{"A" * 43}"]
"""


def server_toml(data: bytes) -> str:
    """An owner's policy and settings."""
    try:
        found = parse_config(data, FOLDER)
    except ClfError as error:
        return error.code
    for grant in found.policy.grants:
        if grant.enclave not in {enclave.name for enclave in found.policy.enclaves}:
            raise WrongAcceptError(f"a grant for {grant.enclave!r}, which is no enclave of the policy")
        for glob in grant.paths:
            check_glob(glob)
    for place in found.data, found.results:
        if isinstance(place, Bucket) and (place.endpoint or "https:").startswith("http:"):
            host = urlsplit(place.endpoint or "").hostname or ""
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise WrongAcceptError("plain http to another machine")
        if isinstance(place, Bucket) and place.prefix and not place.prefix.endswith("/"):
            raise WrongAcceptError("a prefix that covers parts of names")
    if isinstance(found.data, Bucket) and isinstance(found.results, Bucket) and found.data.overlaps(found.results):
        raise WrongAcceptError("results that would be released")
    places = [found.data, found.results, found.state, found.keys]
    if len(set(places)) < len(places):
        raise WrongAcceptError("two folders are one")
    return f"accepted, {len(found.policy.grants)} grants"


def clf_toml(data: bytes) -> str:
    """An app's description."""
    try:
        found = app_config.parse(data, "clf.toml")
    except ClfError as error:
        return error.code
    for owner in found.owner.values():
        parse_url(owner.url)
        if not 1 <= len(owner.identity) <= 2:
            raise WrongAcceptError("an owner that is not pinned")
    return f"accepted, {len(found.owner)} owners"


TARGETS: dict[str, Callable[[bytes], str]] = {"server_toml": server_toml, "clf_toml": clf_toml}


def seeds(name: str) -> list[bytes]:
    """What mutation begins with."""
    if name == "clf_toml":
        return [_APP.encode()]
    made = render(
        trust="intel", collateral=Collateral("pcs"), listen="0.0.0.0:4433", admin="127.0.0.1:9433", simulation_root=None
    )
    stores = made.replace('data = "data" ', "").replace('results = "results" ', "") + _STORES
    return [(made + _POLICY).encode(), made.replace("# ", "").encode(), stores.encode()]
