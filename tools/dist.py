# SPDX-License-Identifier: Apache-2.0
"""`make dist`: everything that is published, into dist/, with a bill of materials and checksums.

    cross_language_framework-VERSION-py3-none-any.whl, .tar.gz    built twice and compared
    requirements.lock                                             exact versions and hashes for an installation
    sbom.cdx.json                                                 CycloneDX: what the package brings with it
    clf-go-VERSION.zip                                            the Go client, as a module's archive
    npm and Maven archives                                        where npm and mvn are on this machine
    SHA256SUMS

The date in all archives is that of the last commit (SOURCE_DATE_EPOCH), so the same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GO_MODULE = "github.com/cross-language-framework/clf-go"


def run(*command: str | os.PathLike[str], cwd: Path = ROOT, **environment: str) -> None:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")


def commit_time() -> str:
    """When the last commit was made, unless the environment says another moment."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return given
    log = subprocess.run(("git", "log", "-1", "--format=%ct"), cwd=ROOT, capture_output=True, text=True, check=False)
    if log.returncode:
        sys.exit("no git history: set SOURCE_DATE_EPOCH to the moment that archives should state")
    return log.stdout.strip()


def python_packages(dist: Path, epoch: str) -> None:
    """Wheel and source archive; a second build must give the same bytes."""
    with tempfile.TemporaryDirectory() as second:
        for folder in (dist, Path(second)):
            run(sys.executable, "-m", "hatchling", "build", "-d", folder, SOURCE_DATE_EPOCH=epoch)
        for path in Path(second).iterdir():
            if path.read_bytes() != (dist / path.name).read_bytes():
                sys.exit(f"{path.name}: two builds of the same commit differ")
    shutil.copyfile(ROOT / "requirements" / "runtime.lock", dist / "requirements.lock")


def bill_of_materials(target: Path, epoch: str) -> None:
    """What the package brings with it, by the lock file; names packages and hashes, and no place to get them from."""
    cyclonedx = Path(sys.executable).with_name("cyclonedx-py")
    run(
        cyclonedx, "requirements", "--pyproject", "pyproject.toml", "--output-reproducible", "--of", "JSON",
        "-o", target, "requirements/runtime.lock", SOURCE_DATE_EPOCH=epoch, PYTHONWARNINGS="ignore",
    )  # fmt: skip
    bom: dict[str, Any] = json.loads(target.read_text())
    for tool in bom["metadata"].get("tools", {}).get("components", []):
        tool.pop("externalReferences", None)
    direct = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = {re.split(r"[^A-Za-z0-9._-]", name, maxsplit=1)[0].lower() for name in direct}
    for component in bom["components"]:
        component.pop("description", None)
        for reference in component.get("externalReferences", []):
            reference.pop("comment", None)
            reference["url"] = component["purl"]  # which package, and not which of the places that have it
    refs = [component["bom-ref"] for component in bom["components"] if component["name"].lower() in wanted]
    root = bom["metadata"]["component"]["bom-ref"]
    bom["dependencies"] = [entry for entry in bom["dependencies"] if entry["ref"] != root]
    bom["dependencies"].append({"ref": root, "dependsOn": sorted(refs)})
    text = json.dumps(bom, indent=2) + "\n"
    places = set(re.findall(r'"[a-z]+://([^/"]+)', text)) - {"cyclonedx.org"}
    if places or len(refs) != len(wanted):
        sys.exit(f"{target.name} names {sorted(places)}, and {len(refs)} of {len(wanted)} direct dependencies")
    target.write_text(text)


def go_module(dist: Path, version: str, epoch: str) -> None:
    """The Go client as the Go module system has archives: every name begins with MODULE@VERSION/."""
    listed = subprocess.run(
        ("git", "ls-files", "-z", "sdk/go"), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = sorted(name for name in listed.split("\0") if name)
    date = time.gmtime(int(epoch))[:6]
    with zipfile.ZipFile(dist / f"clf-go-{version}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [*names, "LICENSE"]:
            inside = name.removeprefix("sdk/go/")
            if name == "LICENSE" and "sdk/go/LICENSE" in names:
                continue
            entry = zipfile.ZipInfo(f"{GO_MODULE}@v{version}/{inside}", date)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (ROOT / name).read_bytes())


def node_package(dist: Path) -> None:
    """The archive that npm would publish."""
    run("npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", dist, cwd=ROOT / "sdk" / "node")


def java_archives(dist: Path, epoch: str) -> None:
    """Jars with their sources and documentation."""
    command = ("mvn", "-q", "-B", "-P", "release", "package", "-DskipTests", f"-Dproject.build.outputTimestamp={epoch}")
    offline = subprocess.run((*command, "-o"), cwd=ROOT / "sdk" / "java", capture_output=True, check=False)
    if offline.returncode:
        run(*command, cwd=ROOT / "sdk" / "java")
    for name in ("clf-client", "clf-compat"):
        for jar in sorted((ROOT / "sdk" / "java" / name / "target").glob(f"{name}-*.jar")):
            shutil.copyfile(jar, dist / jar.name)
        shutil.copyfile(ROOT / "sdk" / "java" / name / "pom.xml", dist / f"{name}.pom")


def main() -> None:
    """Build all of it, or with --python the Python part only."""
    parser = argparse.ArgumentParser(description="Everything that is published, into dist/.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder; what is in it goes")
    parser.add_argument("--python", action="store_true", help="wheel, source archive and bill of materials only")
    options = parser.parse_args()
    dist: Path = options.out.resolve()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    epoch = commit_time()
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir(parents=True)
    print("wheel and source archive, twice")
    python_packages(dist, epoch)
    print("bill of materials")
    bill_of_materials(dist / "sbom.cdx.json", epoch)
    if not options.python:
        print("Go module")
        go_module(dist, version, epoch)
        others: list[tuple[str, str, Callable[[], None]]] = [
            ("npm", "npm package", partial(node_package, dist)),
            ("mvn", "Maven archives", partial(java_archives, dist, epoch)),
        ]
        for tool, what, build in others:
            if shutil.which(tool):
                print(what)
                build()
            elif os.environ.get("CI"):
                sys.exit(f"{what}: {tool} is not on this machine")
            else:
                print(f"{what}: SKIPPED, {tool} is not on this machine")
    files = sorted(path for path in dist.iterdir() if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (dist / "SHA256SUMS").write_text("".join(sums))
    for path in files:
        print(f"  {path.stat().st_size:>12,}  {path.name}")
    print(f"in {dist}; check with: sha256sum --check SHA256SUMS")


if __name__ == "__main__":
    main()
