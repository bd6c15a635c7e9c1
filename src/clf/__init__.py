# SPDX-License-Identifier: Apache-2.0
"""CLF, the Cross-Language Framework: owners release confidential files to attested enclaves only.

    import clf

    with clf.connect("hospital-a") as owner:
        table = owner.read_bytes("patients/2024.csv")
        with owner.create("report.json") as result:
            result.write(b"...")

`connect` gives an `Owner`; its methods give `Reader`, `Writer`, `Folder` and `Entry`. Everything that goes wrong is a
`ClfError` of clf.errors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clf.errors import (
    AttesterError,
    ClfError,
    ConfigError,
    IntegrityError,
    LimitError,
    TransferError,
    UnreachableError,
    WireError,
)

if TYPE_CHECKING:
    from clf.client.connect import connect
    from clf.client.folder import Entry, Folder
    from clf.client.owner import Owner
    from clf.client.reader import Reader
    from clf.client.writer import Writer

__version__ = "0.1.0"

__all__ = [
    "AttesterError",
    "ClfError",
    "ConfigError",
    "Entry",
    "Folder",
    "IntegrityError",
    "LimitError",
    "Owner",
    "Reader",
    "TransferError",
    "UnreachableError",
    "WireError",
    "Writer",
    "__version__",
    "connect",
]

# Loaded when first used: the command line and the server need none of it.
_LAZY = {
    "connect": "clf.client.connect",
    "Entry": "clf.client.folder",
    "Folder": "clf.client.folder",
    "Owner": "clf.client.owner",
    "Reader": "clf.client.reader",
    "Writer": "clf.client.writer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'clf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
