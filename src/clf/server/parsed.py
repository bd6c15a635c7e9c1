# SPDX-License-Identifier: Apache-2.0
"""What was asked for and proven when a transfer was opened, kept as objects: every later step needs both.

The state store has them as bytes and text, which take a third of a millisecond to read again.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Final

from clf import limits
from clf.server.state import Transfer
from clf.verify.claims import Claims
from clf.wire import request as wire_request
from clf.wire.request import TransferRequest

KEPT_COUNT: Final = limits.OPEN_TRANSFERS_COUNT
"""7 KiB each, and a transfer that ended needs them no more."""


class Parsed:
    """Requests and claims of the transfers that this process met last; the one met longest ago goes first.

    Nothing here can be outdated: an id is the digest of its request, and claims are written once, with the row. Safe
    for threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[TransferRequest, Claims]] = OrderedDict()

    def of(self, row: Transfer) -> tuple[TransferRequest, Claims]:
        """Those of a stored transfer. Raises WireError if the store holds something else."""
        with self._lock:
            found = self._known.get(row.id)
            if found is not None:
                self._known.move_to_end(row.id)
                return found
        read = wire_request.parse(row.request), Claims.from_dict(json.loads(row.claims))
        self.keep(row.id, *read)
        return read

    def keep(self, transfer_id: str, request: TransferRequest, claims: Claims) -> None:
        """Those of a transfer that this process has just stored."""
        with self._lock:
            self._known[transfer_id] = request, claims
            if len(self._known) > KEPT_COUNT:
                self._known.popitem(last=False)
