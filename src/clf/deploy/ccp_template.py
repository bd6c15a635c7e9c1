# SPDX-License-Identifier: Apache-2.0
"""The templates that `ccp-cli pack --tmpl=...` makes an enclave's manifest from; Gramine 1.9 syntax.

A host can change nothing of what a packed program does: arguments and environment are fixed, and every file is hashed
into the manifest, but for /etc/hosts, because names lead where the host wants anyway. The files in the repository's
folder ccp are made here, for the sample and for a server; an app of one's own gets its template from its clf.toml.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from clf.app import config as app_config
from clf.app import owners
from clf.app.config import AppConfig
from clf.deploy import images
from clf.deploy.manifest import NEEDS, OWNERS_NAME, SCRATCH, SCRATCH_HOST, SEARCH, enclave_bytes
from clf.limits import MIB

OWNERS: Final = f"/clf/gramine/{OWNERS_NAME}"
"""The owners of clf.toml for clients without a TOML parser; `clf manifest` writes it when the image is built."""
PYTHON: Final = "/opt/clf/bin/python3"
"""In all images, whatever Python their base has."""

_HEAD: Final = """\
# SPDX-License-Identifier: Apache-2.0
# Template with which `ccp-cli pack --tmpl={name}` makes the manifest of {whose} enclave; Gramine 1.9 syntax.
#
{comment}
"""
_CLIENT: Final = """\
# A host can change nothing of what the app does: arguments and environment are fixed, and every file is hashed into the
# manifest, but for /etc/hosts, because names lead where the host wants anyway. This one is for the sample; an app of
# your own gets its own: clf ccp client --app DIR --write-template FILE"""
_SERVER: Final = """\
# An owner's server needs no enclave: it runs where the owner trusts the machine. Packed, it runs where the owner does
# not; then its folder is encrypted for this enclave alone, and the host can still put back an older state of it, with
# counters and audit log as they were. Keep signed heads of the audit log elsewhere (clf audit export-head)."""


@dataclass(frozen=True, slots=True)
class Template:
    """What differs from template to template."""

    name: str
    whose: str
    comment: str
    argv: tuple[str, ...]
    program: str
    folder: str
    memory_bytes: int
    threads: int
    exinfo: bool
    environment: tuple[tuple[str, str], ...] = ()
    trusted: tuple[str, ...] = ()
    encrypted: tuple[tuple[str, str], ...] = ()
    """Where in the enclave, and where on the host's disk."""

    def render(self) -> str:
        """The file's text."""
        argv = ", ".join(map(_text, self.argv))
        environment = {"PATH": SEARCH, "LANG": "C.UTF-8", **dict(self.environment)}
        lines = [
            _HEAD.format(name=self.name, whose=self.whose, comment=self.comment),
            'loader.entrypoint.uri = "file:{{ gramine.libos }}"',
            f"libos.entrypoint = {_text(self.program)}",
            f"loader.argv = [{argv}]",
            'loader.log_level = "error"  # more would tell the host',
            *(f"loader.env.{name} = {_text(value)}" for name, value in environment.items()),
            "",
            'fs.root = { type = "chroot", uri = "file:/" }',
            f"fs.start_dir = {_text(self.folder)}",
            "fs.mounts = [",
            '    { path = "/lib", uri = "file:{{ gramine.runtimedir() }}" },',
            '    { type = "tmpfs", path = "/tmp" },',
            *(_encrypted(path, host) for path, host in self.encrypted),
            "]",
            "",
            "sys.enable_extra_runtime_domain_names_conf = true",
            "",
            "sgx.debug = false",
            'sgx.remote_attestation = "dcap"',
            f'sgx.enclave_size = "{enclave_bytes(self.memory_bytes) // MIB}M"',
            f"sgx.max_threads = {self.threads}",
            f"sgx.use_exinfo = {'true' if self.exinfo else 'false'}",
            "",
            "# A folder with a slash at its end stands for every file in it when the manifest is made.",
            "sgx.trusted_files = [",
            '    "file:{{ gramine.libos }}",',
            '    "file:{{ gramine.runtimedir() }}/",',
            *(f"    {_text('file:' + path)}," for path in self.trusted),
            "]",
            'sgx.allowed_files = ["file:/etc/hosts"]',
            "",
        ]
        return "\n".join(lines)


def client(app: AppConfig, program: str, name: str = "clf_client") -> Template:
    """The template of an app whose program is at `program` in the image."""
    java = PurePosixPath(program).name == "java"
    beside = {"java": ("/usr/lib/jvm/",)}.get(PurePosixPath(program).name, ())
    own = () if program.startswith(("/opt/", images.APP_FOLDER)) else (program,)
    return Template(
        name,
        "a client's",
        _CLIENT,
        (app.app.command[0], *app.app.command[1:]),
        program,
        images.APP_FOLDER,
        app.app.memory_bytes,
        app.app.threads,
        NEEDS["java"].use_exinfo and java,
        environment=(
            *app.app.environment.items(),
            (app_config.ENVIRONMENT, f"{images.APP_FOLDER}/{app_config.NAME}"),
            (owners.ENVIRONMENT, OWNERS),
            *([(app_config.LOCAL_ENVIRONMENT, f"{images.APP_FOLDER}/{app.app.local}")] if app.app.local else []),
            *([(app_config.SCRATCH_ENVIRONMENT, SCRATCH)] if app.app.scratch else []),
        ),
        trusted=(
            "/lib/x86_64-linux-gnu/", "/usr/lib/x86_64-linux-gnu/", *beside, *own, "/opt/", f"{images.APP_FOLDER}/",
            OWNERS,
        ),
        encrypted=((SCRATCH, SCRATCH_HOST),) if app.app.scratch else (),
    )  # fmt: skip


def server() -> Template:
    """The template of a server."""
    argv = ("python3", "-m", "clf.cli.main", "server", "run", images.OWNER_FOLDER)
    return Template(
        "clf_server",
        "a server's",
        _SERVER,
        argv,
        PYTHON,
        "/",
        8192 * MIB,
        64,
        False,
        trusted=("/lib/x86_64-linux-gnu/", "/usr/lib/", "/opt/"),
        encrypted=((images.OWNER_FOLDER, images.OWNER_FOLDER),),
    )


def _encrypted(path: str, host: str) -> str:
    place = f"path = {_text(path)}, uri = {_text('file:' + host)}"
    return f'    {{ type = "encrypted", {place}, key_name = "_sgx_mrenclave" }},'


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for DEL. Braces would be the template's own."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f").replace("{", "\\u007b")
