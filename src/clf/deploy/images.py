# SPDX-License-Identifier: Apache-2.0
"""What the images are called, what they are built on, and where things are in them: one place for all that build,
start or pack them.

Names are those of the guide that users of the first CLF follow. `gramine1.3` in a tag is such a name and says nothing
of the Gramine inside; the image's labels do.
"""

from __future__ import annotations

import re
from typing import Final

from clf.errors import ConfigError

BASES: Final = ("ubuntu:18.04", "ubuntu:20.04", "ubuntu:22.04", "ubuntu:24.04")
DEFAULT_BASE: Final = "ubuntu:20.04"
"""The guide's. Its standard support ended in 2025, so whoever can takes a later one."""
OUT_OF_SUPPORT: Final = ("ubuntu:18.04", "ubuntu:20.04")

NAMES: Final = {"client": "clf-client", "server": "clf-server", "app": "clf-client-app"}
"""What each kind of image is called; an app's is built on a client's."""

APP_FOLDER: Final = "/clf/cczoo/cross_lang_framework/clf_client/app"
"""The app in a client image. The guide's path, because users' own Dockerfiles and commands name it."""
OWNER_FOLDER: Final = "/clf/cczoo/cross_lang_framework/clf_server"
"""The owner's folder, mounted into a server container."""

PORT: Final = 4433

_REFERENCE = re.compile(
    r"[a-z0-9]+([._/:-]+[a-z0-9]+)*"  # registry, port and path; good enough to refuse options and blanks
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)


def check_base(text: str, *, meant: bool = False) -> str:
    """The base image that was asked for: one of BASES, or any other if that is `meant`. Raises ConfigError."""
    name = re.sub(r"^ubuntu(?=[0-9])", "ubuntu:", text)  # the guide writes ubuntu20.04 once
    if name in BASES:
        return name
    if meant:
        return check_reference(text, "base-image")
    raise ConfigError(
        f"base: {text!r} is not one that images are built on",
        field="base",
        remedy=f"one of {', '.join(BASES)}; or --base-image {text}, if another is meant",
    )


def check_reference(text: str, field: str) -> str:
    """An image's name with tag or digest, as every engine takes it. Raises ConfigError."""
    if len(text) > 255 or not _REFERENCE.fullmatch(text):
        raise ConfigError(
            f"{field}: {text!r} is not the name of an image",
            field=field,
            remedy="like clf-client:gramine1.3-ubuntu20.04",
        )
    return text


def default_tag(kind: str, base: str) -> str:
    """The guide's tag for an image of this kind (a key of NAMES) on this base."""
    suffix = re.sub(r"[^A-Za-z0-9_.]+", "-", base.replace(":", "", 1) if base in BASES else base).strip("-.")
    return f"{NAMES[kind]}:gramine1.3-{suffix[-100:]}"
