# SPDX-License-Identifier: Apache-2.0
"""The Gramine manifest of an app: what the enclave starts, with which arguments and files. No IO: text out of facts.

The manifest is measured into MRENCLAVE, and so is, by its hash, every file that may be opened. The rules:

- Program, arguments and environment stand here; none come from the host, but for one variable of an app with [cluster]:
  which part of the cluster an enclave is, and where the others are (clf.dask.enclave says why that gives it nothing).
- Every trusted file has its SHA-256, but for Gramine's own (its folder has a slash at the end), which gramine-sgx-sign
  hashes. Nothing else can be opened: the policy is `strict` and the root is an empty folder in enclave memory.
- One file is allowed without a hash, /etc/hosts: names lead where the host wants anyway, because the network is the
  host's. Whom the app believes is decided by the CAs and identities in the measured clf.toml.
- What is written stays in enclave memory (/tmp), or is encrypted: under a key of this very enclave (`scratch = true`),
  or under one that CLF's launcher makes for this run, where it brings a program's files ([[input]], [[output]]).

The same app and image give the same bytes. Syntax: Gramine's documentation, "Manifest syntax", version 1.9.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Literal

from clf import limits
from clf.app import config as app_config
from clf.app import enclave, owners, part
from clf.app.config import AppConfig
from clf.app.measure import MeasuredFile
from clf.dask import enclave as cluster
from clf.errors import ConfigError
from clf.filesystem import memory

Kind = Literal["python", "java", "node", "program"]

SEARCH: Final = "/opt/clf/bin:/usr/local/bin:/usr/bin:/bin"
"""PATH in the enclave, and where the program of clf.toml is looked for: first the images' own Python."""
SCRATCH: Final = "/scratch"
SCRATCH_HOST: Final = "/var/lib/clf/scratch"
"""The encrypted files on the host's disk; the image makes the folder."""
MANIFEST_NAME: Final = "app.manifest"
OWNERS_NAME: Final = "owners.jsonl"
DATA_HOST: Final = "/var/lib/clf/data"
"""The encrypted inputs and outputs on the host's disk, made empty for each start."""
FOLDERS_NAME: Final = "app.folders"
"""Those folders, one a line, for whoever makes them."""
ARGUMENTS_NAME: Final = "app.arguments"
"""The program's arguments, one a line: what a container's command line may repeat and not change."""
HOSTS: Final = "/etc/hosts"

_TMP_FROM: Final = "/tmp"  # noqa: S108 - a tmpfs in enclave memory
_MAX_HEAP = re.compile(r"-Xmx([1-9][0-9]*)([kKmMgG]?)")
_UNITS: Final = {"": 1, "k": limits.KIB, "m": limits.MIB, "g": limits.GIB}


@dataclass(frozen=True, slots=True)
class Needs:
    """The least that a runtime starts with in an enclave, which gives it all threads and memory at the start."""

    memory_bytes: int
    threads: int
    use_exinfo: bool = False


NEEDS: Final[dict[Kind, Needs]] = {
    # Four: the app's, and Gramine's for other processes, timers and pipes.
    "program": Needs(64 * limits.MIB, 4),
    "python": Needs(256 * limits.MIB, 8),
    # Gramine's own OpenJDK example: fewer than 64 threads do not load the runtime, and HotSpot asks where it faulted.
    "java": Needs(limits.GIB, 64, use_exinfo=True),
    # V8 reserves about 1.7 GiB when it starts (nodejs/node issue 13018, and Gramine's example).
    "node": Needs(2 * limits.GIB, 32),
}


@dataclass(frozen=True, slots=True)
class Trusted:
    """A file of the machine that the enclave may open: its absolute path, and the SHA-256 in hex that it must have."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Runtime:
    """What an app's program needs of the machine beside the app's own files.

    `mounts` are pairs of path in the enclave and path on the machine. `program` is what the enclave starts; where that
    is CLF's launcher, `launched` is what the launcher starts. `kind` is that of the app's own program.
    """

    kind: Kind
    program: str
    mounts: tuple[tuple[str, str], ...]
    trusted: tuple[Trusted, ...]
    environment: dict[str, str] = field(default_factory=dict)
    launched: str = ""


@dataclass(frozen=True, slots=True)
class Gramine:
    """Where Gramine itself is; the defaults are those of its packages for Debian and Ubuntu."""

    libos: str = "/usr/lib/x86_64-linux-gnu/gramine/libsysdb.so"
    runtime: str = "/usr/lib/x86_64-linux-gnu/gramine/runtime/glibc"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest's text, the file of owners that it names with its hash, the fixed arguments, and folders to be made
    before it starts."""

    text: str
    owners: bytes
    arguments: tuple[str, ...]
    folders: tuple[str, ...]
    trusted: tuple[Trusted, ...]
    enclave_bytes: int


def render(
    config: AppConfig,
    files: Iterable[MeasuredFile],
    runtime: Runtime,
    *,
    folder: str,
    out: str,
    gramine: Gramine = Gramine(),
) -> Manifest:
    """The manifest of an app whose measured `files` are in `folder`; it and the owners' file will be in `out`.

    Both are absolute paths on the machine and in the enclave. Raises ConfigError where clf.toml asks for less than the
    runtime needs.
    """
    app = config.app
    _check_resources(config, runtime.kind)
    listed = owners.owner_lines(config, PurePosixPath(folder))
    own = [Trusted(f"{folder}/{file.path}", file.sha256) for file in files]
    own.append(Trusted(f"{out}/{OWNERS_NAME}", hashlib.sha256(listed).hexdigest()))
    trusted = _once([*runtime.trusted, *own])
    mounts = [*runtime.mounts, (folder, folder), (f"{out}/{OWNERS_NAME}", f"{out}/{OWNERS_NAME}"), (HOSTS, HOSTS)]
    environment = {
        **runtime.environment,
        **app.environment,
        "PATH": SEARCH,
        "HOME": folder,
        "TMPDIR": _TMP_FROM,
        memory.ENVIRONMENT: _TMP_FROM,
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": ":".join(_libraries(runtime)),
        app_config.ENVIRONMENT: f"{folder}/{app_config.NAME}",
        owners.ENVIRONMENT: f"{out}/{OWNERS_NAME}",
        **({app_config.LOCAL_ENVIRONMENT: f"{folder}/{app.local}"} if app.local else {}),
        **({app_config.SCRATCH_ENVIRONMENT: SCRATCH} if app.scratch else {}),
    }
    size = enclave_bytes(app.memory_bytes)
    started = enclave.command(folder, runtime.launched) if config.has_data else app.command
    argv = [runtime.program, *started[1:]]
    parts = config.cluster is not None and runtime.kind == "python" and not config.has_data
    if parts:
        argv = cluster.command(runtime.program, app.command)
    data = enclave.mounts(config, folder) if config.has_data else ()
    encrypted = [(mount.path, f"{DATA_HOST}/{mount.host}", mount.key_name) for mount in data]
    encrypted += [(SCRATCH, SCRATCH_HOST, "_sgx_mrenclave")] if app.scratch else []
    lines = [
        "# Made by `clf manifest` from clf.toml; for Gramine 1.9. It is measured: a changed byte is another enclave.",
        f"loader.entrypoint.uri = {_text('file:' + gramine.libos)}",
        'loader.log_level = "error"  # more would tell the host',
        f"loader.argv = [{', '.join(map(_text, argv))}]",
        *(f"loader.env.{_key(name)} = {_text(environment[name])}" for name in sorted(environment)),
        *([f"loader.env.{part.ENVIRONMENT} = {{ passthrough = true }}"] if parts else []),
        "",
        f"libos.entrypoint = {_text(runtime.program)}",
        "",
        'fs.root = { type = "tmpfs" }',
        f"fs.start_dir = {_text(folder)}",
        "fs.mounts = [",
        f'  {{ type = "tmpfs", path = {_text(_TMP_FROM)} }},',  # before what may lie in it
        f"  {_mount('/lib', gramine.runtime)},",
        *(f"  {_mount(path, host)}," for path, host in mounts),
        *(f"  {_encrypted(*mount)}," for mount in encrypted),
        "]",
        "",
        "sys.enable_extra_runtime_domain_names_conf = true",
        "",
        f"sgx.enclave_size = {_text(_size(size))}",
        f"sgx.max_threads = {app.threads}",
        "sgx.edmm_enable = false",
        f"sgx.use_exinfo = {'true' if NEEDS[runtime.kind].use_exinfo else 'false'}",
        "sgx.debug = false",
        'sgx.remote_attestation = "dcap"',
        f"sgx.isvprodid = {app.product_id}",
        f"sgx.isvsvn = {app.svn}",
        'sgx.file_check_policy = "strict"',
        f"sgx.allowed_files = [{_text('file:' + HOSTS)}]",
        "sgx.trusted_files = [",
        f"  {_text('file:' + gramine.runtime + '/')},",
        *(f"  {{ uri = {_text('file:' + file.path)}, sha256 = {_text(file.sha256)} }}," for file in trusted),
        "]",
    ]
    return Manifest(
        "\n".join(lines) + "\n",
        listed,
        tuple(app.command[1:]),
        tuple(host for _, host, _ in encrypted),
        tuple(trusted),
        size,
    )


def enclave_bytes(wanted: int) -> int:
    """The enclave's size for so much memory: the next power of two, because the processor knows no others."""
    return 1 << (wanted - 1).bit_length()


def _libraries(runtime: Runtime) -> list[str]:
    """Where libraries are looked for: Gramine's, single ones that belong to a program, the machine's, in this order."""
    paths = [path for path, _ in runtime.mounts]
    single = [str(PurePosixPath(path).parent) for path in paths if ".so" in PurePosixPath(path).suffixes]
    return ["/lib", *single, *(path for path in paths if path.endswith("-linux-gnu"))]


def _check_resources(config: AppConfig, kind: Kind) -> None:
    app, needs = config.app, NEEDS[kind]
    if config.has_data:  # the launcher runs in an enclave of the same size
        launcher = NEEDS["python"]
        needs = Needs(max(needs.memory_bytes, launcher.memory_bytes), max(needs.threads, launcher.threads))
    what = f"a {kind} app" + (" and CLF's launcher" if config.has_data else "")
    if app.threads < needs.threads:
        raise ConfigError(
            f"app.threads: {app.threads} is too few for {what} in an enclave, whose threads are fixed",
            field="app.threads",
            remedy=f"at least {needs.threads}",
        )
    if app.memory_bytes < needs.memory_bytes:
        raise ConfigError(
            f"app.memory: {app.memory} is too little for {what} in an enclave",
            field="app.memory",
            remedy=f"at least {_size(needs.memory_bytes)}",
        )
    heap = max((_heap_bytes(word) for word in app.command[1:]), default=0) if kind == "java" else 0
    if app.memory_bytes < 2 * heap:
        raise ConfigError(
            f"app.memory: {app.memory} is too little for the Java heap that app.command allows: code, threads and "
            "Gramine need as much again",
            field="app.memory",
            remedy=f"at least {_size(enclave_bytes(2 * heap))}, or a smaller -Xmx",
        )


def _heap_bytes(word: str) -> int:
    found = _MAX_HEAP.fullmatch(word)
    return int(found[1]) * _UNITS[found[2].lower()] if found else 0


def _once(files: list[Trusted]) -> list[Trusted]:
    """Sorted, each path once. Raises ConfigError if one path has two contents: it was changed meanwhile."""
    found: dict[str, Trusted] = {}
    for file in files:
        if found.setdefault(file.path, file).sha256 != file.sha256:
            raise ConfigError(f"{file.path} changed while it was measured", remedy="make the manifest again")
    return [found[path] for path in sorted(found, key=lambda path: path.encode())]


def _mount(path: str, host: str) -> str:
    return f"{{ path = {_text(path)}, uri = {_text('file:' + host)} }}"


def _encrypted(path: str, host: str, key_name: str) -> str:
    uri = _text(f"file:{host}")
    return f'{{ type = "encrypted", path = {_text(path)}, uri = {uri}, key_name = {_text(key_name)} }}'


def _size(count: int) -> str:
    return f"{count // limits.GIB}G" if count % limits.GIB == 0 else f"{count // limits.MIB}M"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
