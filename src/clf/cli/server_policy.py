# SPDX-License-Identifier: Apache-2.0
"""`clf server init, check, allow, revoke, add-key, renew`: an owner's folder and policy."""

from __future__ import annotations

import enum
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from clf.errors import ConfigError

if TYPE_CHECKING:
    from clf.server.config import Collateral
    from clf.verify.rules import Trust

Dir = Annotated[Path, typer.Option("--dir", help="The owner's folder.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
HERE = Path()


class TrustChoice(enum.StrEnum):
    """Which root evidence must come from."""

    intel = "intel"
    simulation = "simulation"


class UpdateChoice(enum.StrEnum):
    """What becomes of an enclave's present measurements."""

    add_ = "add"
    replace_ = "replace"


class ProfileChoice(enum.StrEnum):
    """TCB profiles."""

    strict = "strict"
    standard = "standard"
    lenient = "lenient"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `clf server`."""
    app.command(epilog="Example: clf server init hospital --trust intel --pcs --host hospital.example")(init)
    app.command(epilog="Example: clf server check hospital")(check)
    app.command(
        epilog="Example: clf server allow trainer --mrenclave $(clf measure app) --platform any "
        "--read 'patients/*.csv' --max-runs 10 --max-bytes 1000000"
    )(allow)
    app.command(epilog="Example: clf server revoke trainer --grant trainer-write")(revoke)
    app.command("add-key", epilog="Example: clf server add-key model")(add_key)
    app.command(epilog="Example: clf server renew --host hospital.example --host 192.0.2.7")(renew)


def say(text: str) -> None:
    Console(highlight=False, soft_wrap=True).print(text)


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def init(  # noqa: PLR0917 - typer passes options by name
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    trust: Annotated[
        TrustChoice | None, typer.Option(help="Whose evidence counts: real processors, or a simulated platform.")
    ] = None,
    simulation_root: Annotated[
        Path | None, typer.Option(help="PEM file with the simulated platform's root; with --trust simulation.")
    ] = None,
    pccs: Annotated[str | None, typer.Option(metavar="URL", help="Collateral from this PCCS.")] = None,
    pcs: Annotated[bool, typer.Option("--pcs", help="Collateral from Intel's PCS.")] = False,
    collateral_folder: Annotated[Path | None, typer.Option(help="Collateral from this folder.")] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address of this server, repeatable. Default: localhost and this machine's name."),
    ] = None,
    listen: Annotated[str, typer.Option(help="Where enclave apps connect.")] = "0.0.0.0:4433",
    admin: Annotated[str, typer.Option(help="Health and metrics; loopback only.")] = "127.0.0.1:9433",
    as_json: Json = False,
) -> None:
    """Make an owner's folder: identity, certificates, policy, data, results, state. Overwrites nothing."""
    from clf.server import setup

    root, source = trusted(trust, pccs, pcs=pcs, folder=collateral_folder)
    made = setup.init(
        folder,
        trust=root,
        collateral=source,
        simulation_root=simulation_root,
        hosts=host or setup.default_hosts(),
        listen=listen,
        admin=admin,
        now=time.time(),
    )
    if as_json:
        print_json(
            {
                "folder": str(made.folder),
                "identity": made.thumbprint,
                "ca": str(made.ca),
                "hosts": list(made.hosts),
                "trust": made.trust,
                "simulated": made.trust == "simulation",
            }
        )
        return
    banner(made.trust)
    say(f"[bold green]made[/] {escape(str(made.folder))}, an owner's folder for {escape(', '.join(made.hosts))}")
    say("\nThe app's clf.toml needs these two:")
    say(f"  identity  [bold]{made.thumbprint}[/]")
    say(f"  ca        [bold]{escape(str(made.ca))}[/]")
    say("\nNext: put files into data/, then say who may read them:")
    say(
        f"  clf server allow NAME --dir {escape(str(made.folder))} --mrenclave HEX --platform any "
        "--read 'GLOB' --max-runs 10 --max-bytes 1000000000"
    )


def trusted(trust: TrustChoice | None, pccs: str | None, *, pcs: bool, folder: Path | None) -> tuple[Trust, Collateral]:
    """Whom to trust, and where collateral comes from; both must be said."""
    from clf.server.config import Collateral

    sources = [
        *([Collateral("pccs", pccs)] if pccs is not None else []),
        *([Collateral("pcs")] if pcs else []),
        *([Collateral("folder", str(folder))] if folder is not None else []),
    ]
    missing = [] if trust else ["--trust intel or --trust simulation --simulation-root FILE"]
    if len(sources) != 1:
        missing.append("one of --pccs URL, --pcs, --collateral-folder DIR")
    if missing or trust is None:
        raise ConfigError(
            "whom to trust was not said, and nothing is assumed", field="trust", remedy="add " + "; ".join(missing)
        )
    return trust.value, sources[0]


def banner(trust: str) -> None:
    from clf.server.explain import SIMULATION_WARNING

    if trust == "simulation":
        say(f"[bold white on red] {SIMULATION_WARNING} [/]")


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The owner's folder.")] = HERE, as_json: Json = False
) -> None:
    """Check configuration, keys and certificate, and say in plain sentences which enclave may do what."""
    from clf.cli.main import EXIT_CONFIG
    from clf.server import explain

    report = explain.check(folder, time.time())
    if as_json:
        print_json(report.to_dict())
    else:
        banner(report.trust)
        for sentence in report.sentences:
            say(escape(sentence))
        for style, word, findings in (
            ("bold red", "problem", report.problems),
            ("yellow", "warning", [item for item in report.warnings if item.message != explain.SIMULATION_WARNING]),
        ):
            for item in findings:
                remedy = f" ({escape(item.remedy)})" if item.remedy else ""
                say(f"[{style}]{word}[/] {escape(item.message)}{remedy}")
        if report.ok:
            say(f"[bold green]ok[/] identity {report.identity}, policy {report.digest[:16]}")
    if not report.ok:
        raise typer.Exit(EXIT_CONFIG)


def allow(  # noqa: PLR0917 - typer passes options by name
    name: Annotated[str, typer.Argument(help="The enclave's name in the policy.")],
    folder: Dir = HERE,
    mrenclave: Annotated[list[str] | None, typer.Option(metavar="HEX", help="Measurement, repeatable.")] = None,
    mrsigner: Annotated[list[str] | None, typer.Option(metavar="HEX", help="Signer instead of mrenclave.")] = None,
    product_id: Annotated[int | None, typer.Option(help="With --mrsigner: exactly this product.")] = None,
    min_svn: Annotated[int | None, typer.Option(help="With --mrsigner: this security version or later.")] = None,
    delegates_to_signer: Annotated[
        bool, typer.Option("--delegates-to-signer", help="With --mrsigner: the signer may change the app at any time.")
    ] = False,
    mr_td: Annotated[
        list[str] | None, typer.Option(metavar="HEX", help="TDX: initial measurement, repeatable.")
    ] = None,
    rtmr0: Annotated[list[str] | None, typer.Option(metavar="HEX", help="TDX: firmware, repeatable.")] = None,
    rtmr1: Annotated[list[str] | None, typer.Option(metavar="HEX", help="TDX: boot loader, kernel.")] = None,
    rtmr2: Annotated[list[str] | None, typer.Option(metavar="HEX", help="TDX: command line, initrd.")] = None,
    rtmr3: Annotated[
        list[str] | None, typer.Option(metavar="HEX", help="TDX: the app, as clf measure --tdx-rtmr prints it.")
    ] = None,
    mr_seam: Annotated[list[str] | None, typer.Option(metavar="HEX|any", help="TDX: accepted modules.")] = None,
    mr_config_id: Annotated[str | None, typer.Option(metavar="HEX", help="TDX: exact value; zero if left out.")] = None,
    mr_owner: Annotated[str | None, typer.Option(metavar="HEX", help="TDX: exact value; zero if left out.")] = None,
    mr_owner_config: Annotated[
        str | None, typer.Option(metavar="HEX", help="TDX: exact value; zero if left out.")
    ] = None,
    mr_signer_seam: Annotated[
        str | None, typer.Option(metavar="HEX", help="TDX: who signed the module; Intel if left out.")
    ] = None,
    td_attributes: Annotated[
        str | None, typer.Option(metavar="HEX", help="TDX: exact value; if left out, only those that strengthen.")
    ] = None,
    app_in_image: Annotated[
        bool, typer.Option("--app-in-image", help="TDX: rtmr3 may be zero, because the image measures the app.")
    ] = False,
    platform: Annotated[list[str] | None, typer.Option(metavar="PPID|any", help="Where it may run.")] = None,
    tcb: Annotated[ProfileChoice | None, typer.Option(help="How well kept the platform must be.")] = None,
    read: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Files it may read, repeatable.")] = None,
    write: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Results it may write, repeatable.")] = None,
    list_: Annotated[
        list[str] | None, typer.Option("--list", metavar="GLOB", help="Folders it may list, like 'images/**'.")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Keys it may receive, repeatable.")] = None,
    max_runs: Annotated[str | None, typer.Option(metavar="N|unlimited", help="How often it may be started.")] = None,
    max_bytes: Annotated[str | None, typer.Option(metavar="N|unlimited", help="Bytes in all, per grant.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="End, like 2030-01-31T00:00:00Z.")] = None,
    update: Annotated[
        UpdateChoice | None,
        typer.Option(help="With a new --mrenclave (or --rtmr3 and so on) for a known NAME: add, or replace."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Allow an enclave something. What is not given is refused with what to add; nothing is assumed."""
    from clf.server import edit

    change = edit.allow(
        folder,
        name,
        edit.Identity(
            mrenclave=tuple(mrenclave or ()),
            mrsigner=tuple(mrsigner or ()),
            product_id=product_id,
            min_svn=min_svn,
            delegates_to_signer=delegates_to_signer,
            mr_td=tuple(mr_td or ()),
            rtmr0=tuple(rtmr0 or ()),
            rtmr1=tuple(rtmr1 or ()),
            rtmr2=tuple(rtmr2 or ()),
            rtmr3=tuple(rtmr3 or ()),
            mr_seam=tuple(mr_seam or ()),
            mr_config_id=mr_config_id,
            mr_owner=mr_owner,
            mr_owner_config=mr_owner_config,
            mr_signer_seam=mr_signer_seam,
            td_attributes=td_attributes,
            app_in_image=app_in_image,
            platforms=tuple(platform or ()),
            tcb=tcb.value if tcb else None,
        ),
        edit.Wish(
            read=tuple(read or ()),
            write=tuple(write or ()),
            list=tuple(list_ or ()),
            keys=tuple(key or ()),
            max_runs=max_runs,
            max_bytes=max_bytes,
            until=until,
        ),
        now=time.time(),
        update=update.value if update else None,
    )
    _changed("allowed", change, as_json)


def revoke(
    name: Annotated[str, typer.Argument(help="The enclave's name in the policy.")],
    grant: Annotated[str | None, typer.Option(help="Only this grant. Without it: all, and the enclave.")] = None,
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Take back one grant, or everything that an enclave may do. Open transfers end at the next reload."""
    from clf.server import edit

    _changed("revoked", edit.revoke(folder, name, grant), as_json)


def _changed(verb: str, change: Any, as_json: bool) -> None:
    from clf.server import explain

    if as_json:
        print_json(
            {
                "enclave": change.enclave,
                "enclave_changed": change.enclave_changed,
                verb: list(change.grants),
                "policy": change.config.digest,
                "simulated": change.config.trust == "simulation",
            }
        )
        return
    banner(change.config.trust)
    what = ", ".join(change.grants) or "no grant"
    also = f" and the description of {change.enclave}" if change.enclave_changed else ""
    say(f"[bold green]{verb}[/] {escape(what)}{escape(also)}")
    for sentence in explain.sentences(change.config, time.time()):
        if sentence.startswith((f"Enclave {change.enclave} ", f"  {change.enclave} ")):
            say(escape(sentence))
    say("\nNext: clf server reload makes a running server follow the file")


def add_key(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    file: Annotated[Path | None, typer.Option(help="A file that holds the key. Without it, 32 random bytes.")] = None,
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Describe a named key, so that it can be granted. A released key cannot be called back."""
    from clf.server import edit

    config = edit.add_key(folder, name, file)
    path = config.key_file(name)
    if as_json:
        print_json({"key": name, "file": str(path), "policy": config.digest})
        return
    say(f"[bold green]added[/] key {escape(name)}, in {escape(str(path))}")
    say(f"\nNext: clf server allow ENCLAVE --key {escape(name)} --max-runs N")


def renew(
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of this server, repeatable. Default: as before.")
    ] = None,
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Make a new server certificate with the owner's CA; apps need no change. A running server takes it by itself."""
    from clf.cli.server_upkeep import load_as_owner
    from clf.server import certificates, rotation
    from clf.server.due import recorder

    config = load_as_owner(folder)
    made = rotation.renew_certificate(config, host or [], recorder(config, time.time), time.time())
    hosts, ends = certificates.hosts_of(made), f"{made.not_valid_after_utc:%Y-%m-%d}"
    if as_json:
        print_json({"certificate": str(config.tls_certificate), "hosts": hosts, "ends": ends})
        return
    say(f"[bold green]renewed[/] certificate for {escape(', '.join(hosts))}, until {ends}")
    say("\na running server takes it within seconds")
