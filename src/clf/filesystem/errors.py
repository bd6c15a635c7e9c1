# SPDX-License-Identifier: Apache-2.0
"""What fsspec's users catch as OSError and NotImplementedError, as errors of CLF.

Only what an owner has sealed becomes FileNotFoundError: code that goes on without a missing file must not be led to do
so by whoever sits on the network.
"""

from __future__ import annotations

from clf.errors import ClfError, TransferError


class MissingFileError(ClfError, FileNotFoundError):
    """The file is in none of the owner's sealed listings that would show it."""

    default_code = "no_such_file"


class FolderError(ClfError, IsADirectoryError):
    """The name is that of a folder where a file is meant."""

    default_code = "is_folder"


class ResultExistsError(TransferError, FileExistsError):
    """The owner holds a result of this name; results never overwrite one another."""


class NotOfferedError(ClfError, NotImplementedError):
    """Something that file systems do and owners do not allow: deleting, renaming, appending."""

    default_code = "not_offered"


class ExposedError(ClfError, PermissionError):
    """Plain data would have been written where whoever runs the machine can read it."""

    default_code = "exposed"


class NotPublishedWarning(UserWarning):
    """A result was closed while an exception was being handled, and is not published."""
