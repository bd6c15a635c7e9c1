# SPDX-License-Identifier: Apache-2.0
"""`clf manifest`: from an app to what Gramine starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clf.deploy.manifest import Manifest, Runtime

OUT = "/clf/gramine"
"""Where the images have the manifest."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("manifest")(manifest)


def manifest(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The app's folder, or its clf.toml.")] = Path("."),
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=f"Write app.manifest and owners.jsonl into this folder. Default: print the manifest, for {OUT}.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Make the Gramine manifest of an app: program, arguments, environment, memory, and the hash of every file.

    Run it where the app will run, mostly in its image: interpreter and libraries are measured as they are here. The
    same app in the same image gives the same bytes. gramine-sgx-sign then signs it, outside of the image.

    Examples: clf manifest ./app        clf manifest ./app --out gramine
    """
    from clf.deploy.build_manifest import build, write

    made, runtime = build(folder.resolve(), (out.resolve() if out else Path(OUT)))
    if out is None and not as_json:
        sys.stdout.write(made.text)
        return
    if out is not None:
        write(made, out)
    if as_json:
        print(json.dumps(_as_json(made, runtime), indent=1))
    elif out is not None:
        _print(made, runtime, out)


def _as_json(made: Manifest, runtime: Runtime) -> dict[str, object]:
    return {
        "manifest": made.text,
        "owners": made.owners.decode(),
        "runtime": runtime.kind,
        "entrypoint": runtime.program,
        "enclave_bytes": made.enclave_bytes,
        "trusted_files": len(made.trusted),
        "not_measured": ["/etc/hosts", "the host's name and name servers"],
    }


def _print(made: Manifest, runtime: Runtime, out: Path) -> None:
    print(f"manifest      {out / 'app.manifest'}")
    print(f"starts        {runtime.program} ({runtime.kind})")
    print(f"enclave       {made.enclave_bytes // 1024 // 1024} MiB")
    print(f"measured      {len(made.trusted)} files, each by its SHA-256, and Gramine's own when it is signed")
    print("not measured  /etc/hosts and name servers: where names lead, which the host decides anyway")
    print("next          sign it outside of the image: gramine-sgx-sign --manifest app.manifest, or clf image sign")
