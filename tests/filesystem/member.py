# SPDX-License-Identifier: Apache-2.0
"""A worker in a process of its own: root of trust, collateral service, where to join."""

from __future__ import annotations

import sys
from pathlib import Path

from clf.attest import detect
from clf.dask.cluster import work
from clf.dask.peers import Peers
from clf.dask.service import join
from clf.errors import ClfError
from clf.verify.fetch import PccsSource
from clf.verify.trust import TrustRoot


def main() -> int:
    """Exit code 1 and the error's code where it may not join."""
    root, pccs, host, port = sys.argv[1:]
    peers = Peers(detect(), TrustRoot.simulation_pem(Path(root).read_bytes()), PccsSource(pccs))
    try:
        work(peers, (host, int(port)), join((host, int(port)), peers))
    except ClfError as error:
        sys.stderr.write(f"{error.code}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
