# SPDX-License-Identifier: Apache-2.0
"""`clf simulator`: a simulated SGX and TDX platform for development, and the PCCS that goes with it."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from clf.errors import ConfigError

_WARNING = "SIMULATION: this platform protects nothing. Whoever reads its folder can state any measurement."


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    simulator = typer.Typer(
        no_args_is_help=True,
        help="A simulated SGX and TDX platform for development. It protects nothing.",
        epilog="Example: clf simulator init ./platform",
    )
    simulator.command("init")(init)
    simulator.command("pccs")(pccs)
    app.add_typer(simulator, name="simulator")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the platform is kept.")],
    seed: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="For tests that need the same platform again; random if left out."),
    ] = None,
) -> None:
    """Make a simulated platform, or show the one that is there.

    Example: clf simulator init ./platform
    """
    from clf.simulator.store import load_or_create

    platform = load_or_create(folder, _seed(seed))
    print(_WARNING)
    print(f"platform  {folder}")
    print(f"root      {folder / 'root.pem'}")
    print(f"key id    {platform.root_key_id}")
    print(f"FMSPC     {platform.fmspc.hex()}")
    print(
        f'next      an owner pins it with trust = "simulation" and simulation_root; then: clf simulator pccs {folder}'
    )


def pccs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The platform, as made by init.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    port_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the port is written once it listens.")
    ] = None,
) -> None:
    """Serve a simulated platform's collateral as a PCCS until it is told to stop.

    Example: clf simulator pccs ./platform --port 8081
    """
    from clf.simulator.pccs import Pccs
    from clf.simulator.store import load_or_create

    if not (folder / "seed").is_file():
        raise ConfigError(
            f"{folder} holds no simulated platform", field="DIR", remedy=f"make one: clf simulator init {folder}"
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        server = Pccs(load_or_create(folder), port=port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}", field="port", remedy="choose another port, or 0"
        ) from None
    with server:
        print(_WARNING, file=sys.stderr, flush=True)
        if port_file is not None:
            # Whole or not at all: whoever waits for the file reads it at once.
            partial = port_file.with_name(f".{port_file.name}.partial")
            partial.write_text(f"{server.port}\n", encoding="ascii")
            partial.replace(port_file)
        print(server.url, flush=True)
        stop.wait()


def _seed(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(
            "the seed is not hexadecimal", field="--seed", remedy="write an even number of hex digits, or leave it out"
        ) from None
