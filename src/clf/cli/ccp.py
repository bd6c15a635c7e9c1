# SPDX-License-Identifier: Apache-2.0
"""`clf ccp`: the two commands for Tencent's CCP, shown or executed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clf.errors import ConfigError

if TYPE_CHECKING:
    from clf.app.config import AppConfig
    from clf.deploy.ccp import Commands, Kind

_Text = str | None
_Many = list[str] | None

_APP = "The app's folder or clf.toml: memory, threads, program and arguments come from it."


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    ccp = typer.Typer(
        no_args_is_help=True,
        help="Pack an image for Tencent's CCP and run it there.",
        epilog="Example: clf ccp client --app ./app --capp-id capp-ODdjZWZhOWYt --credentials ~/ccp.txt --run",
    )
    for kind in ("client", "server"):
        ccp.command(
            kind,
            help=f"Print the commands that pack and run a {kind} image, in the guide's form. Each parameter can also "
            "be given as CCP_NAME in the environment (CCP_MEMSIZE).",
            epilog=f"Example: clf ccp {kind} --memsize 4096M --thread 32 --add-host owner.example:192.0.2.7",
        )(_command(kind))
    app.add_typer(ccp, name="ccp")


def _command(kind: Kind) -> Callable[..., None]:
    def command(  # noqa: PLR0917 - typer passes options by name
        arguments: Annotated[_Many, typer.Argument(metavar="[-- ARGUMENT...]", help="The program's.")] = None,
        app: Annotated[Path | None, typer.Option(metavar="DIR", help=_APP)] = None,
        app_entry: Annotated[_Text, typer.Option(help="The program in the image.")] = None,
        memsize: Annotated[_Text, typer.Option(help="Enclave memory, a power of two: 8192M.")] = None,
        thread: Annotated[_Text, typer.Option(help="Threads of the enclave.")] = None,
        tmpl: Annotated[_Text, typer.Option(help="Template for the manifest; ours are in the folder ccp.")] = None,
        secret_id: Annotated[_Text, typer.Option(metavar="env:NAME|file:PATH", help="Where it is.")] = None,
        secret_key: Annotated[_Text, typer.Option(metavar="env:NAME|file:PATH", help="Where it is.")] = None,
        credentials: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Both: lines secret-id=... and secret-key=...; mode 600.")
        ] = None,
        capp_id: Annotated[_Text, typer.Option(help="The instance on CCP.")] = None,
        app_image: Annotated[_Text, typer.Option(help="The image to pack.")] = None,
        app_type: Annotated[_Text, typer.Option(help="What is packed: image.")] = None,
        start: Annotated[_Text, typer.Option(help="Where the program starts.")] = None,
        port: Annotated[_Text, typer.Option(help="Port of this machine that leads to the container's 4433.")] = None,
        add_host: Annotated[_Many, typer.Option(metavar="NAME:ADDRESS", help="A host's address, repeatable.")] = None,
        device: Annotated[_Many, typer.Option(help="Repeatable. Default: the two of SGX.")] = None,
        volume: Annotated[_Many, typer.Option(metavar="DIR:PATH[:ro]", help="A folder to mount, repeatable.")] = None,
        show_secrets: Annotated[
            bool, typer.Option("--show-secrets", help="Print the credentials and not placeholders.")
        ] = False,
        run: Annotated[bool, typer.Option("--run", help="Execute the first command; needs ccp-cli.")] = False,
        run_container: Annotated[
            bool, typer.Option("--run-container", help="Execute the second command, after the first if --run.")
        ] = False,
        write_template: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write the template for the manifest; with --app.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    ) -> None:
        from clf.app import config as app_config
        from clf.deploy.ccp import Given, commands

        values = {
            "app-entry": app_entry, "memsize": memsize, "thread": thread, "tmpl": tmpl, "secret-id": secret_id,
            "secret-key": secret_key, "capp-id": capp_id, "app-image": app_image, "app-type": app_type,
            "start": start, "port": port,
        }  # fmt: skip
        given = Given(
            {name: value for name, value in values.items() if value is not None},
            hosts=tuple(add_host or ()),
            devices=tuple(device or ()),
            volumes=tuple(volume or ()),
            arguments=tuple(arguments or ()),
            credentials=credentials,
        )
        described = app_config.load(app_config.locate(app)) if app else None
        try:
            made = commands(kind, given, os.environ, described)
        except ConfigError as error:
            if not error.field.startswith("--"):
                raise
            raise typer.BadParameter(f"{error.message} ({error.remedy})") from None
        if write_template:
            _write_template(described, made, write_template)
        _show(made, secrets=show_secrets, as_json=as_json)
        if run:
            _execute(made, "pack")
        if run_container:
            _execute(made, "run")

    return command


def _write_template(app: AppConfig | None, made: Commands, file: Path) -> None:
    from clf.deploy import ccp_template

    if app is None:
        raise typer.BadParameter("--write-template needs --app DIR: a template is that of an app")
    program = next(word.partition("=")[2] for word in made.argv("pack") if word.startswith("--app-entry="))
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(ccp_template.client(app, program, file.stem).render())
    except OSError as error:
        raise ConfigError(
            f"{file}: {error.strerror}", field="write-template", remedy="name a file that is not there yet"
        ) from None
    print(f"wrote {file}: give it to ccp-cli, and --tmpl {file.stem}", file=sys.stderr)


def _show(made: Commands, *, secrets: bool, as_json: bool) -> None:
    pack, start = made.shown("pack", secrets=secrets), made.shown("run")
    if as_json:
        print(json.dumps({"pack": pack, "run": start, "examples": made.examples, "missing": made.missing()}, indent=1))
        return
    print(f"{pack}\n\n{start}")
    if not secrets:
        print("\nsecret-id and secret-key are placeholders here; --show-secrets prints yours", file=sys.stderr)
    if made.examples:
        names = ", ".join(f"--{name}" for name in made.examples)
        print(f"examples of the guide, to be replaced by yours: {names}", file=sys.stderr)


def _execute(made: Commands, which: str) -> None:
    argv = made.argv("pack" if which == "pack" else "run")
    if which == "pack" and made.missing():
        raise ConfigError(
            "not all was given that packing needs",
            field="ccp",
            remedy="add " + ", ".join(f"--{name}" for name in made.missing()),
        )
    program = shutil.which(argv[0])
    if program is None:
        raise ConfigError(
            f"there is no {argv[0]} on this machine",
            field="PATH",
            remedy="run this where it is installed, or copy the command there",
        )
    print(f"running {argv[0]} {argv[1]}", file=sys.stderr, flush=True)
    done = subprocess.run([program, *argv[1:]], check=False)
    if done.returncode != 0:
        print(f"{argv[0]} {argv[1]} ended with {done.returncode}", file=sys.stderr)
        raise typer.Exit(1)
