# SPDX-License-Identifier: Apache-2.0
"""Judges a Gramine manifest: by the keys and types of gramine-1.9.toml, and by what an enclave must not believe."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SYNTAX: dict[str, Any] = tomllib.loads((Path(__file__).parent / "gramine-1.9.toml").read_text())
KEYS: dict[str, str] = SYNTAX["keys"]
SHA256 = re.compile(r"[0-9a-f]{64}")


def _uri(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(file:/|dev:).*[^/]/?|file:/", value) is not None


def _mount(value: object, *, root: bool = False) -> bool:
    if not isinstance(value, dict):
        return False
    value = dict(value)
    if not root and not str(value.pop("path", "")).startswith("/"):
        return False
    kind = value.pop("type", "chroot")
    wanted = {"chroot": {"uri"}, "encrypted": {"uri", "key_name"}, "tmpfs": set(), "untrusted_shm": {"uri"}}.get(kind)
    return wanted is not None and set(value) in (wanted, wanted - {"key_name"}) and _uri(value.get("uri", "file:/x"))


def _trusted(value: object) -> bool:
    if isinstance(value, dict):
        return set(value) == {"uri", "sha256"} and _uri(value["uri"]) and bool(SHA256.fullmatch(value["sha256"]))
    return _uri(value)


TYPES: dict[str, Callable[[Any], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "string": lambda value: isinstance(value, str),
    "path": lambda value: isinstance(value, str) and value.startswith("/"),
    "strings": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "size": lambda value: isinstance(value, str) and re.fullmatch(r"[0-9]+[KMG]?", value) is not None,
    "sha256": lambda value: isinstance(value, str) and SHA256.fullmatch(value) is not None,
    "uri": _uri,
    "uris": lambda value: isinstance(value, list) and all(map(_uri, value)),
    "environment": lambda value: isinstance(value, str) or value == {"passthrough": True} or set(value) == {"value"},
    "root": lambda value: _mount(value, root=True),
    "mounts": lambda value: isinstance(value, list) and all(map(_mount, value)),
    "trusted": lambda value: isinstance(value, list) and all(map(_trusted, value)),
}


def _leaves(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Keys as the documentation writes them, with their values."""
    for name, value in tree.items():
        path = (*above, name)
        dotted = ".".join(path)
        pattern = ".".join((*path[:-1], "*"))
        if dotted in KEYS or pattern in KEYS or not isinstance(value, dict):
            yield dotted if dotted in KEYS else pattern if pattern in KEYS else dotted, value
        else:
            yield from _leaves(value, path)


def mistakes(text: str) -> list[str]:
    """What Gramine would not take."""
    tree = tomllib.loads(text)
    found, seen = [], set()
    for key, value in _leaves(tree):
        seen.add(key)
        kind = KEYS.get(key)
        if kind is None:
            found.append(f"{key} is not a key of Gramine's")
        elif not (TYPES[kind](value) if kind in TYPES else value in kind.split()):
            found.append(f"{key} = {value!r} is no {kind}")
    found += [f"{key} is missing" for key in SYNTAX["required"]["keys"] if key not in seen]
    size = tree.get("sgx", {}).get("enclave_size", "256M")
    number = int(size[:-1]) if size[-1].isalpha() else int(size)
    if number & (number - 1):
        found.append(f"sgx.enclave_size = {size}: the processor knows powers of two only")
    return found


def believed(
    text: str, *, measured_later: frozenset[str] = frozenset(), harmless: frozenset[str] = frozenset()
) -> list[str]:
    """What of the host an enclave with this manifest would believe: files without a hash, arguments, variables.

    Keys of encrypted mounts may be that of this very enclave, or `clf_data`, which the launcher makes for each run and
    has no value in the manifest. `measured_later` are folders that the signer hashes; `harmless` are files without a
    hash that were argued for.
    """
    tree = tomllib.loads(text)
    loader, fs, sgx, system = tree["loader"], tree["fs"], tree["sgx"], tree.get("sys", {})
    found = [f"{key} = {value!r}" for key, value in _leaves(tree) if "insecure__" in key or "experimental__" in key]
    found += [f"allowed: {uri}" for uri in sgx.get("allowed_files", []) if uri not in harmless]
    for item in sgx.get("trusted_files", []):
        if isinstance(item, str) and item not in measured_later:
            found.append(f"no hash yet: {item}")
    if "argv" not in loader:
        found.append("arguments are not fixed")
    found += [f"{key} is read from a file" for key in ("argv_src_file", "env_src_file") if key in loader]
    found += [
        f"{name} comes from the host" for name, value in loader.get("env", {}).items() if not isinstance(value, str)
    ]
    if fs.get("root", {}).get("type") != "tmpfs":
        found.append("the root is the host's")
    for mount in fs["mounts"]:
        if mount.get("type") == "untrusted_shm" or mount.get("uri", "").startswith("dev:"):
            found.append(f"shared with the host: {mount['path']}")
        if mount.get("type") == "encrypted" and mount.get("key_name") not in ("_sgx_mrenclave", "clf_data"):
            found.append(f"encrypted under a key that others have: {mount['path']}")
    if sgx.get("debug", False) or sgx.get("enable_stats", False) or "profile" in sgx:
        found.append("a debugger may look in")
    if sgx.get("file_check_policy", "strict") != "strict":
        found.append("every file is allowed")
    if sgx.get("remote_attestation") != "dcap":
        found.append("it cannot say what it is")
    if loader.get("log_level", "error") not in ("none", "error"):
        found.append("its log tells the host")
    if "allowed_ioctls" in system or system.get("enable_sigterm_injection", False):
        found.append("the host calls in")
    return found
