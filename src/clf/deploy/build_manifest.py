# SPDX-License-Identifier: Apache-2.0
"""Reads an app and this machine, and writes the manifest: the shell around clf.deploy.manifest."""

from __future__ import annotations

import os
from pathlib import Path

from clf.app import config as app_config
from clf.app.measure import measure
from clf.deploy import runtimes
from clf.deploy.manifest import ARGUMENTS_NAME, FOLDERS_NAME, MANIFEST_NAME, OWNERS_NAME, Manifest, Runtime, render
from clf.errors import ConfigError


def build(app: Path, out: Path) -> tuple[Manifest, Runtime]:
    """The manifest of an app on this machine, to be in the folder `out`. Raises ConfigError."""
    folder = app_config.locate(app).parent
    measured = measure(folder)
    runtime = runtimes.find(measured.config, folder)
    return render(measured.config, measured.files, runtime, folder=str(folder), out=str(out)), runtime


def write(made: Manifest, out: Path) -> None:
    """Write manifest and owners into a folder. Raises ConfigError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        arguments = "".join(f"{word}\n" for word in made.arguments).encode()
        folders = "".join(f"{folder}\n" for folder in made.folders).encode()
        files = {
            OWNERS_NAME: made.owners,
            ARGUMENTS_NAME: arguments,
            FOLDERS_NAME: folders,
            MANIFEST_NAME: made.text.encode(),
        }
        for name, data in files.items():
            temporary = out / f".{name}.new"
            temporary.write_bytes(data)
            os.replace(temporary, out / name)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}", field="out", remedy="is it a folder?") from None
