# SPDX-License-Identifier: Apache-2.0
"""The `clf` command: arguments in, calls, human output.

Exit codes (tested in tests/cli/test_exit_codes.py):

    0   done, and all of it held
    1   refused or failed: the owner said no, a file is missing, a check did not hold
    2   wrong usage
    3   a configuration file, or a value given, is wrong
    4   nobody answered
    5   integrity: an audit log, answer or file is not what it must be
    70  a defect in CLF
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from clf.cli import app as app_commands
from clf.cli import attest as attest_commands
from clf.cli import (
    audit,
    ccp,
    collateral,
    demo,
    deploy,
    image,
    quote,
    server_import,
    server_policy,
    server_run,
    server_upkeep,
    simulator,
)
from clf.errors import (
    AuditError,
    ClfError,
    CollateralError,
    ConfigError,
    IntegrityError,
    StateError,
    UnreachableError,
)

EXIT_REFUSED = 1
EXIT_CONFIG = 3
EXIT_UNREACHABLE = 4
EXIT_INTEGRITY = 5
EXIT_DEFECT = 70  # EX_SOFTWARE of sysexits.h

app = typer.Typer(
    name="clf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Compute together on confidential data: owners release files to attested enclaves only.",
    epilog="Example: clf demo",
)
server = typer.Typer(
    no_args_is_help=True,
    help="The owner's side: set up, check, run and steer a server.",
    epilog="Example: clf server init hospital --trust intel --pcs --host hospital.example",
)
app.add_typer(server, name="server")

server_policy.register(server)
server_import.register(server)
server_run.register(server)
server_upkeep.register(server)
audit.register(app)
collateral.register(app)
app_commands.register(app)
attest_commands.register(app)
deploy.register(app)
image.register(app)
quote.register(app)
simulator.register(app)
ccp.register(app)
demo.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """What stands before a command."""
    del show_version  # its callback has done it


@app.command(epilog="Example: clf version")
def version() -> None:
    """Print the version."""
    from clf import __version__

    print(f"clf {__version__}")


_COLLATERAL = {
    "collateral_unavailable": EXIT_UNREACHABLE,
    "collateral_malformed": EXIT_INTEGRITY,
    "collateral_invalid": EXIT_INTEGRITY,
    "collateral_signer": EXIT_INTEGRITY,
}
"""Endorsements that nobody sent, and such that are not what they must be; all others are merely refused."""

_STATE = {
    "state_newer": EXIT_CONFIG,
    "state_trust_mismatch": EXIT_CONFIG,
    "state_rolled_back": EXIT_INTEGRITY,
    "audit_damaged": EXIT_INTEGRITY,
}
"""A state that this version or the settings do not fit, and one that is not what it must be: no restart mends them."""


def exit_code(error: ClfError) -> int:
    """The documented exit code for an error."""
    for kind, code in (
        (ConfigError, EXIT_CONFIG),
        (UnreachableError, EXIT_UNREACHABLE),
        (IntegrityError, EXIT_INTEGRITY),
        (AuditError, EXIT_INTEGRITY),
    ):
        if isinstance(error, kind):
            return code
    if isinstance(error, CollateralError):
        return _COLLATERAL.get(error.code, EXIT_REFUSED)
    if isinstance(error, StateError):
        return _STATE.get(error.code, EXIT_REFUSED)
    return EXIT_REFUSED


def tell(error: ClfError) -> int:
    """Print the error for people; returns its exit code."""
    console = Console(stderr=True)
    console.print(f"[bold red]error[/] {escape(error.code)}: {escape(error.message)}", highlight=False, soft_wrap=True)
    if error.remedy:
        console.print(f"  [bold]remedy[/] {escape(error.remedy)}", highlight=False, soft_wrap=True)
    return exit_code(error)


def main() -> NoReturn:
    """Run the command line; errors of CLF become a line for people and a documented exit code."""
    try:
        app(prog_name="clf")
    except ClfError as error:
        sys.exit(tell(error))
    except Exception:
        # Where in the program, for whoever corrects it; without local variables, which may hold secrets.
        traceback.print_exc()
        print("error defect: this is a defect in CLF; please report it with the lines above", file=sys.stderr)
        sys.exit(EXIT_DEFECT)
    sys.exit(0)


if __name__ == "__main__":
    main()
