# SPDX-License-Identifier: Apache-2.0
"""What each parameter of the commands for CCP may be.

A check takes the text and where it stood; it gives the text back, or raises ConfigError with that place as field. What
passes needs no quotes in a shell.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from typing import Final

from clf.deploy import images
from clf.errors import ConfigError
from clf.server.certificates import is_host

MEMORY_MOST_MIB: Final = 1024 * 1024


def _refuse(source: str, text: str, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"{source}: {text!r} is not {what}", field=source, remedy=remedy)


def _pattern(pattern: str, what: str, remedy: str) -> Callable[[str, str], str]:
    compiled = re.compile(pattern)

    def check(text: str, source: str) -> str:
        if not compiled.fullmatch(text):
            raise _refuse(source, text, what, remedy)
        return text

    return check


def _path(text: str, source: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._+@-]+)+", text) or ".." in text.split("/"):
        raise _refuse(source, text, "an absolute path in the image", "like /usr/bin/java")
    return text


def _memory(text: str, source: str) -> str:
    found = re.fullmatch(r"([1-9][0-9]{0,6})([MG])", text)
    mib = int(found[1]) * (1 if found[2] == "M" else 1024) if found else 0
    if not found or mib > MEMORY_MOST_MIB:
        raise _refuse(source, text, "an amount of memory", "like 8192M or 8G")
    if mib & (mib - 1):
        raise _refuse(source, text, "a power of two, which SGX needs", f"{1 << mib.bit_length()}M, or less")
    return f"{mib}M"


def _number(most: int) -> Callable[[str, str], str]:
    def check(text: str, source: str) -> str:
        if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > most:
            raise _refuse(source, text, f"a number from 1 to {most}", "write it in digits")
        return text

    return check


def check_host(text: str, source: str) -> str:
    """NAME:ADDRESS, as --add-host takes it."""
    name, _, address = text.partition(":")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        address = ""
    if not address or not is_host(name):
        raise _refuse(source, text, "a host's name and its address", "like VM-30-8-ubuntu:10.0.30.8")
    return text


def check_device(text: str, source: str) -> str:
    """A device file."""
    if not re.fullmatch(r"/dev/[A-Za-z0-9_/]+(:/dev/[A-Za-z0-9_/]+)?", text):
        raise _refuse(source, text, "a device", "like /dev/sgx_enclave")
    return text


def check_volume(text: str, source: str) -> str:
    """DIR:PATH or DIR:PATH:ro, and never so much as the whole machine."""
    outside, _, inside = text.removesuffix(":ro").partition(":")
    if not inside or "," in text or os.path.normpath(outside) in ("/", "/home", "/etc", "/var", "/root", "/usr"):
        raise _refuse(
            source, text, "a folder of its own, and where it appears", f"like /srv/owner:{images.OWNER_FOLDER}"
        )
    _path(outside, source)
    _path(inside, source)
    return text


CHECKS: Final[dict[str, Callable[[str, str], str]]] = {
    "app-entry": _path,
    "memsize": _memory,
    "thread": _number(4096),
    "tmpl": _pattern(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "a template's name", "like clf_client"),
    "capp-id": _pattern(r"capp-[A-Za-z0-9_=-]{1,64}", "an instance on CCP", "like capp-ODdjZWZhOWYt"),
    "app-image": images.check_reference,
    "app-type": _pattern(r"[a-z][a-z0-9_-]{0,31}", "a kind of package", "like image"),
    "start": _path,
    "port": _number(65535),
}
