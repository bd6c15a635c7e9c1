# SPDX-License-Identifier: Apache-2.0
"""A systemd unit for one owner's folder, as closed as the server's needs allow.

It may write state, results and keys (to rotate them), read the rest, and reach the network. `clf server reload` follows
an edited policy; replaced certificates and keys are followed by the server itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from clf.errors import ConfigError
from clf.server.config import ServerConfig

_PLAIN: Final = re.compile(r"[A-Za-z0-9/._+@:,-]+")
_NEVER: Final = re.compile(r"[\x00-\x1f\x7f\"'\\$]")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_STOP_MARGIN_SECONDS: Final = 15
FILES_COUNT: Final = 65_536
"""A connection is a file handle, and so is a body in flight."""

_UNIT: Final = """\
# Made by clf server unit for {folder}.
[Unit]
Description=CLF owner's server of {description}
Documentation=man:systemd.exec(5)
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
ExecStart={clf} server run {folder}
# An edited policy; a replaced certificate or key needs no reload.
ExecReload={clf} server reload {folder}
WorkingDirectory={folder}
Restart=on-failure
RestartSec=2
# 3: the configuration is wrong; 5: the audit log does not hold. Starting again cannot help, a person has to look.
RestartPreventExitStatus=3 5
KillMode=mixed
TimeoutStopSec={stop}
LimitNOFILE={files}
# Secrets are in its memory.
LimitCORE=0
UMask=0077

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ReadWritePaths={writable}
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def render(config: ServerConfig, user: str, clf: Path | None = None) -> str:
    """The unit's text. Raises ConfigError for names that a unit cannot hold."""
    if not _USER.fullmatch(user):
        raise ConfigError(f"user: {user!r} is no name of a system user", field="user", remedy="--user clf")
    program = clf or Path(sys.executable).with_name("clf")
    places = [config.state, *([config.results] if isinstance(config.results, Path) else []), config.keys]
    in_home = any(path.is_relative_to(home) for path in (program, config.folder, *places) for home in _HOMES)
    return _UNIT.format(
        description=config.folder.name,
        folder=_quoted(config.folder),
        user=user,
        clf=_quoted(program),
        stop=config.limits.stop_grace_seconds + _STOP_MARGIN_SECONDS,
        files=FILES_COUNT,
        writable=" ".join(_quoted(path) for path in places),
        home="read-only" if in_home else "yes",
    )


_HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))


def _quoted(path: Path) -> str:
    text = str(path)
    if _NEVER.search(text):
        raise ConfigError(
            f"{text!r} has characters that a unit cannot hold", field="dir", remedy="use a folder of a plainer name"
        )
    text = text.replace("%", "%%")
    return text if _PLAIN.fullmatch(text) else f'"{text}"'
