# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.fuzz.openapi [--seconds N]`: schemathesis makes requests from spec/openapi.yaml, at a real server.

Every answer must be one that the document has: status, headers, media type and schema. Two passes: as a stranger, whose
ids and tokens are made up, and as an app with open transfers, for which the document's copy names id and token.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.byhand import ByHand, Hand
from tests.shared import ROOT
from tests.world import OwnerProcess, running, world

SPEC = ROOT / "spec" / "openapi.yaml"
CONFIG = Path(__file__).with_name("schemathesis.toml")
PASSES_COUNT = 3
# What follows the document may still be refused for what it says, and a request with two mistakes for either of them.
EXCLUDED = "positive_data_acceptance,missing_required_header"
KEEP = ("--exclude-method", "DELETE")  # it would end what the others need


def for_transfer(transfer: ByHand, folder: Path) -> Path:
    """The document with this transfer's id as the only one, for the operations on a transfer."""
    document: dict[str, Any] = yaml.safe_load(SPEC.read_text())
    document["paths"] = {path: item for path, item in document["paths"].items() if "{id}" in path}
    document["components"]["parameters"]["id"]["schema"] = {"type": "string", "const": transfer.id}
    made = folder / f"{transfer.id}.json"
    made.write_text(json.dumps(document))
    return made


def schemathesis(owner: OwnerProcess, document: Path, seconds: float, seed: int, *options: str) -> int:
    """One pass; its exit code."""
    return subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG),
            "run", str(document), "--url", owner.url,
            "--tls-verify", str(owner.ca), "--max-time", str(int(seconds)), "--seed", str(seed), "--no-color",
            "--phases", "examples,coverage,fuzzing", "--exclude-checks", EXCLUDED, "--continue-on-failure",
            "--max-examples", "10000", "--warnings", "off", "--generation-database", "none", *options,
        ],
        check=False,
        timeout=seconds + 300,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "SCHEMATHESIS_HOOKS": "tests.fuzz.openapi_hooks"},
    ).returncode  # fmt: skip


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.openapi", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    given = parser.parse_args()
    limits = {"requests_per_second_per_address": 1_000_000, "requests_burst_count": 1_000_000}
    each = given.seconds / PASSES_COUNT
    with tempfile.TemporaryDirectory() as name, world(Path(name)) as made:
        owner = OwnerProcess(made, "owner", limits=limits)
        owner.put("patients.csv", bytes(100_000))
        owner.allow("app", read="**", write="**", list="**")
        with running(owner):
            codes = [schemathesis(owner, SPEC, each, given.seed)]
            for action, path in (("read", "/"), ("write", "out/result")):
                transfer = Hand(owner).open(action, path)
                token = f"Authorization: Bearer {transfer.grant.token}"
                codes.append(
                    schemathesis(owner, for_transfer(transfer, Path(name)), each, given.seed, "-H", token, *KEEP)
                )
        owner.verify_audit()
        log = owner.log()
    if '"defect"' in log or "Traceback" in log:
        print(log[-5000:], file=sys.stderr)
        return 1
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
