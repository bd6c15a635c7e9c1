# SPDX-License-Identifier: Apache-2.0
"""The two commands that bring an image to Tencent's CCP: `ccp-cli pack ...` and `docker run ...`, in the guide's form.

Every parameter comes from a flag, else from the environment (CCP_MEMSIZE for --memsize), else from the app's clf.toml,
else it is the guide's own example. Examples are named, so that nobody packs for the guide's instance.

The exception to our rule on secrets is made here and nowhere else: `ccp-cli` takes the account's credentials as
arguments and in no other way that its guide names. They come from the environment or from a file that only its owner
reads, are shown as placeholders, and stand in an argument list only while `--run` runs `ccp-cli`.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from clf import limits
from clf.app.config import AppConfig
from clf.deploy import images
from clf.deploy.ccp_checks import CHECKS, check_device, check_host, check_volume
from clf.deploy.ccp_template import PYTHON
from clf.deploy.manifest import enclave_bytes
from clf.errors import ConfigError

Kind = Literal["client", "server"]

PLACEHOLDERS: Final = {"secret-id": "A" * 32, "secret-key": "k" * 32}
"""What stands for credentials on a screen: the guide's."""
DEVICES: Final = ("/dev/sgx_enclave", "/dev/sgx_provision")

_EXAMPLES: Final[dict[Kind, dict[str, str]]] = {
    "client": {"capp-id": "capp-ODdjZWZhOWYt", "add-host": "VM-30-8-ubuntu:10.0.30.8"},
    "server": {"capp-id": "capp-Y2IyNGM1YzAt", "add-host": "VM-0-3-ubuntu:10.206.0.3"},
}
_ARGUMENTS: Final[dict[Kind, tuple[str, ...]]] = {"client": ("-Xmx4G", "clf_test", "VM-30-8-ubuntu"), "server": ()}
_DEFAULTS: Final[dict[Kind, dict[str, str]]] = {
    "client": {
        "app-entry": "/usr/bin/java",
        "memsize": "8192M",
        "thread": "64",
        "tmpl": "clf_client",
        "app-image": images.default_tag("client", images.DEFAULT_BASE),
        "app-type": "image",
        "start": images.APP_FOLDER,
        "port": "",
    },
    "server": {
        "app-entry": PYTHON,
        "memsize": "8192M",
        "thread": "64",
        "tmpl": "clf_server",
        "app-image": images.default_tag("server", images.DEFAULT_BASE),
        "app-type": "image",
        "start": images.OWNER_FOLDER,
        "port": str(images.PORT),
    },
}
PARAMETERS: Final = (*_DEFAULTS["client"], "secret-id", "secret-key", "capp-id")
"""Those with one value; --add-host, --device, --volume and the program's arguments may have several."""


@dataclass(frozen=True)
class Secret:
    """A credential whose text appears in no repr."""

    value: str = field(repr=False)


@dataclass(frozen=True)
class Given:
    """What the command line says; `values` by parameter's name, all unchecked."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)  # somebody may have typed a secret
    hosts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    credentials: Path | None = None


@dataclass(frozen=True)
class Commands:
    """Both commands, each in the lines of the guide; `examples` are the parameters that nobody gave."""

    pack: tuple[tuple[str, ...], ...]
    run: tuple[tuple[str, ...], ...]
    examples: tuple[str, ...]
    secrets: Mapping[str, Secret]

    def shown(self, which: Literal["pack", "run"], *, secrets: bool = False) -> str:
        """One command to be pasted into a shell; credentials only if `secrets`."""
        lines = self.pack if which == "pack" else self.run
        return "\\\n             ".join(
            " ".join(self._word(word, secrets=secrets) for word in line) + " " for line in lines
        ).rstrip()

    def argv(self, which: Literal["pack", "run"]) -> list[str]:
        """One command as it is executed, credentials included."""
        words = [word for line in (self.pack if which == "pack" else self.run) for word in line]
        return [self._filled(word) for word in words]

    def missing(self) -> tuple[str, ...]:
        """Parameters that must be given before anything is packed."""
        absent = [name for name in PLACEHOLDERS if name not in self.secrets]
        return (*absent, *(name for name in self.examples if name == "capp-id"))

    def _filled(self, word: str) -> str:
        name = word.removeprefix("--").rstrip("=")
        if word.endswith("=") and name in PLACEHOLDERS:
            secret = self.secrets.get(name)
            return word + (secret.value if secret else PLACEHOLDERS[name])
        return word

    def _word(self, word: str, *, secrets: bool) -> str:
        if secrets:
            word = self._filled(word)
        elif word.endswith("=") and word[2:-1] in PLACEHOLDERS:
            word += PLACEHOLDERS[word[2:-1]]
        if word.startswith("--app-entry="):
            return f'--app-entry="{word.partition("=")[2]}"'  # the guide's quotes; the path needs none
        return shlex.quote(word)


def commands(kind: Kind, given: Given, environment: Mapping[str, str], app: AppConfig | None = None) -> Commands:
    """The two commands for an image of this kind. Raises ConfigError; its field is "--NAME" for what a flag says."""
    values = _Values(kind, given, environment, app)
    secrets = _secrets(given, environment)
    hosts = values.several("add-host", given.hosts, "CCP_ADD_HOST", check_host)
    if not hosts and app is None:
        hosts = (_EXAMPLES[kind]["add-host"],)
        values.examples.append("add-host")
    devices = values.several("device", given.devices, "CCP_DEVICE", check_device) or DEVICES
    arguments = _arguments(kind, given, environment, app)
    image = values.one("app-image")
    port = values.one("port")
    pack = (
        ("ccp-cli", "pack", f"--app-entry={values.one('app-entry')}"),
        (f"--memsize={values.one('memsize')}", f"--thread={values.one('thread')}"),
        (f"--tmpl={values.one('tmpl')}",),
        ("--secret-id=",),
        ("--secret-key=",),
        (f"--capp-id={values.one('capp-id')}",),
        (f"--app-image={image}",),
        (f"--app-type={values.one('app-type')}",),
        (f"--start={values.one('start')}",),
    )
    head = ["docker", "run", "-ti", *(("-p", f"{port}:{images.PORT}") if port else ())]
    head += [word for device in devices for word in ("--device", device)]
    volumes = values.several("volume", given.volumes, "CCP_VOLUME", check_volume)
    if kind == "server" and not volumes:
        # An owner's folder must come from somewhere; beside the example it says what it is for.
        volumes = (f"/srv/owner:{images.OWNER_FOLDER}",)
        values.examples.append("volume")
    run = [tuple(head), *(("-v", volume) for volume in volumes)]
    run.append((*(f"--add-host={host}" for host in hosts), image))
    if arguments:
        run.append(arguments)
    return Commands(pack, tuple(run), tuple(values.examples), secrets)


class _Values:
    """Looks each parameter up where it may stand, and checks it where it was found."""

    def __init__(self, kind: Kind, given: Given, environment: Mapping[str, str], app: AppConfig | None) -> None:
        self.kind: Kind = kind
        self.given = given
        self.environment = environment
        self.app = _from_app(app) if app else {}
        self.examples: list[str] = []

    def one(self, name: str) -> str:
        check = CHECKS[name]
        if name in self.given.values:
            return check(self.given.values[name], f"--{name}")
        variable = variable_of(name)
        if variable in self.environment:
            return check(self.environment[variable], variable)
        if name in self.app:
            return check(self.app[name], f"clf.toml: {name}")
        if name in _EXAMPLES[self.kind]:
            self.examples.append(name)
            return _EXAMPLES[self.kind][name]
        return _DEFAULTS[self.kind][name]

    def several(
        self, name: str, flags: tuple[str, ...], variable: str, check: Callable[[str, str], str]
    ) -> tuple[str, ...]:
        if flags:
            return tuple(check(text, f"--{name}") for text in flags)
        return tuple(check(text, variable) for text in self.environment.get(variable, "").split())


def variable_of(name: str) -> str:
    """The environment variable of a parameter: CCP_APP_ENTRY for app-entry."""
    return f"CCP_{name.upper().replace('-', '_')}"


def _from_app(app: AppConfig) -> dict[str, str]:
    """What an app's clf.toml says of its package."""
    return {
        "app-entry": program_of(app),
        "memsize": f"{enclave_bytes(app.app.memory_bytes) // limits.MIB}M",
        "thread": str(app.app.threads),
    }


def program_of(app: AppConfig) -> str:
    """Where an app's program is in our images: a measured file, the images' own Python, or a program of the system."""
    program = app.app.command[0].removeprefix("./")
    if program in ("python", "python3"):
        return PYTHON
    if program.startswith("/"):
        return program
    return f"{images.APP_FOLDER if '/' in app.app.command[0] else '/usr/bin'}/{program}"


def _arguments(kind: Kind, given: Given, environment: Mapping[str, str], app: AppConfig | None) -> tuple[str, ...]:
    if given.arguments:
        words, source = given.arguments, "--"
    elif "CCP_ARGUMENTS" in environment:
        source = "CCP_ARGUMENTS"
        try:
            words = tuple(shlex.split(environment[source]))
        except ValueError:
            raise ConfigError(f"{source}: a quote does not end", field=source, remedy="close it") from None
    elif app is not None:
        words, source = tuple(app.app.command[1:]), "clf.toml: app.command"
    else:
        return _ARGUMENTS[kind]
    for word in words:
        if not word or not word.isprintable():
            raise ConfigError(f"{source}: {word!r} is no argument", field=source, remedy="write it in one line")
    return words


# --- credentials ---------------------------------------------------------------------------------


def _secrets(given: Given, environment: Mapping[str, str]) -> dict[str, Secret]:
    """The credentials that were found: named by a flag, in the environment, or in the file of both."""
    found: dict[str, Secret] = {}
    both = _credentials(given.credentials) if given.credentials else {}
    for name in PLACEHOLDERS:
        variable = variable_of(name)
        if name in given.values:
            text, source = _named(name, given.values[name], environment), f"--{name}"
        elif environment.get(variable):
            text, source = environment[variable], variable
        elif name in both:
            text, source = both[name], str(given.credentials)
        else:
            continue
        if not re.fullmatch(r"[A-Za-z0-9_-]{8,128}", text):
            raise ConfigError(
                f"{source}: is no {name} (8 to 128 letters, digits, '-', '_'; it is not shown)",
                field=source,
                remedy="copy it from the console of your account, without quotes and blanks",
            )
        found[name] = Secret(text)
    return found


def _named(name: str, text: str, environment: Mapping[str, str]) -> str:
    """A flag says where a credential is, never what it is: others on the machine see arguments."""
    how, _, where = text.partition(":")
    if how == "env" and where:
        if where not in environment:
            raise ConfigError(f"--{name}: there is no variable {where}", field=f"--{name}", remedy="export it")
        return environment[where]
    if how == "file" and where:
        return _private_text(Path(where), f"--{name}").strip()
    raise ConfigError(
        f"--{name}: takes no credential itself, because everybody on the machine sees arguments (it is not shown)",
        field=f"--{name}",
        remedy=f"--{name} env:VARIABLE, or --{name} file:PATH, or set {variable_of(name)}",
    )


def _credentials(path: Path) -> dict[str, str]:
    """A file with two lines, secret-id=... and secret-key=..."""
    found: dict[str, str] = {}
    for number, line in enumerate(_private_text(path, "--credentials").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.strip().replace("_", "-")
        if not equals or name not in PLACEHOLDERS or name in found:
            raise ConfigError(
                f"{path}, line {number}: is not one of secret-id=..., secret-key=... (it is not shown)",
                field="--credentials",
                line=number,
                remedy="one line for each of the two",
            )
        found[name] = value.strip()
    return found


def _private_text(path: Path, source: str) -> str:
    """A small file that only its owner reads. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(limits.KEYRING_BYTES)
    except OSError as error:
        raise ConfigError(f"{source}: {path}: {error.strerror}", field=source, remedy="name the file") from None
    if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"{source}: others may read {path} (mode {stat.S_IMODE(mode):04o})",
            field=source,
            remedy=f"chmod 600 {path}",
        )
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: {path} is no text", field=source, remedy="is it the right file?") from None
