# SPDX-License-Identifier: Apache-2.0
"""Looks into every layer of an image, and into its configuration, for what must not be there."""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A key's header alone stands in programs that read keys; with a body it is one.
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
_TOKEN = re.compile(
    rb"(?<![A-Z0-9])AKIA[0-9A-Z]{16}(?![A-Z0-9])|gh[pousr]_[A-Za-z0-9]{36}|_authToken ?=|"
    rb"//[a-z0-9]+:[^@/\s\"'<>]{4,}@[a-z0-9.-]+/|"
    rb"(?i:(?:secret[_-]?key|password) ?[=:] ?[\"'][A-Za-z0-9+/]{20,}[\"'])"
)
_FILES = re.compile(
    r"(^|/)(\.netrc|pip\.conf|\.pypirc|\.npmrc|id_(rsa|ecdsa|ed25519)|\.git-credentials|auth\.json|\.gnupg/.*|"
    r"enclave-key.*|.*\.p12)$|^(run|var/run)/secrets/|^root/\.(config|cache|ssh)/."
)
_SELF_TEST = re.compile(r"(^|/)libgnutls\.so\.[0-9.]+$")
"""Its private key tests the library itself: published, and the same in every copy of the distribution's package."""
_LARGEST_BYTES = 200 << 20


@dataclass
class Scan:
    """What was looked at, and what was found."""

    files: int = 0
    bytes: int = 0
    findings: list[str] = field(default_factory=list)


def scan_layer(path: Path, canaries: list[bytes], into: Scan) -> None:
    """One layer's files: names, and contents against keys, tokens and the secrets that this build was lent."""
    with tarfile.open(path) as archive:
        for member in archive:
            if _FILES.search(member.name.removeprefix("./")) and not member.isdir():
                into.findings.append(f"{member.name}: a file with a credential's name")
            if not member.isfile():
                continue
            into.files += 1
            into.bytes += member.size
            if member.size > _LARGEST_BYTES:
                into.findings.append(f"{member.name}: too large to look into")
                continue
            opened = archive.extractfile(member)
            assert opened is not None
            found = look(opened.read(), canaries)
            if _SELF_TEST.search(member.name):
                found = [what for what in found if what != "a private key"]
            into.findings += [f"{member.name}: {what}" for what in found]


def look(content: bytes, canaries: list[bytes]) -> list[str]:
    """What of one file must not be in an image."""
    found = []
    if b"PRIVATE KEY-----" in content and _PRIVATE.search(content):
        found.append("a private key")
    if b"\0" not in content[:1024] and (match := _TOKEN.search(content)):
        found.append(f"a token: {match[0][:12]!r}...")
    found += ["a secret that this build was lent" for canary in canaries if canary in content]
    return found


def read_layout(layout: Path) -> dict[str, dict[str, Any]]:
    """The images of an OCI layout by tag: `config`, and `layers` as paths."""
    index = json.loads((layout / "index.json").read_text())
    found = {}
    for entry in index["manifests"]:
        manifest = json.loads(_blob(layout, entry["digest"]).read_bytes())
        found[entry["annotations"]["org.opencontainers.image.ref.name"]] = {
            "config": json.loads(_blob(layout, manifest["config"]["digest"]).read_bytes()),
            "layers": [_blob(layout, layer["digest"]) for layer in manifest["layers"]],
        }
    return found


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")
