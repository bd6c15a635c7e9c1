# SPDX-License-Identifier: Apache-2.0
"""`clf image`: builds, signs and measures the images."""

from __future__ import annotations

import json
import os
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clf.deploy import images

if TYPE_CHECKING:
    from clf.deploy.engine import Build


class KindChoice(Enum):
    """Kinds of images."""

    client = "client"
    server = "server"
    app = "app"


_Engine = Annotated[
    str | None, typer.Option(metavar="NAME", help="docker, podman or buildah. Default: the first that works.")
]
_Source = Annotated[Path | None, typer.Option(metavar="DIR", help="The checkout of CLF. Default: this program's own.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Build nothing; print the engine's command.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Container images: built, signed with a key that stays outside, measured.",
        epilog="Example: clf image build server",
    )
    group.command("build")(build)
    group.command("sign")(sign)
    group.command("measure")(measure)
    app.add_typer(group, name="image")


def build(
    kind: Annotated[KindChoice, typer.Argument(metavar="client|server|app", help="Which image.")],
    *,
    base: Annotated[str | None, typer.Option(metavar="IMAGE", help=f"One of {', '.join(images.BASES)}.")] = None,
    base_image: Annotated[str | None, typer.Option(metavar="IMAGE", help="Any other base, if you mean it.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Default: the guide's, of kind and base.")] = None,
    app: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The app, or for a client clf.toml and CAs for the Java sample."),
    ] = None,
    client: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="The client image that an app's is built on.")
    ] = None,
    gramine: Annotated[
        bool,
        typer.Option("--with-gramine/--without-gramine", help="Gramine from its makers' repository (docker/keys)."),
    ] = True,
    gramine_repository: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A mirror of Gramine's packages; the keys stay those in docker/keys."),
    ] = None,
    intel_repository: Annotated[
        str | None, typer.Option(metavar="URL", help="A mirror of Intel's SGX packages.")
    ] = None,
    pip_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="pip.conf for this build only: where your packages come from.")
    ] = None,
    ca_bundle: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CAs that downloads believe, for this build only.")
    ] = None,
    python_source: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Source of Python, instead of fetching it, for old bases.")
    ] = None,
    python_sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Its SHA-256, if it is another version.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Build every layer anew.")] = False,
    engine: _Engine = None,
    source: _Source = None,
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> None:
    """Build an image from this checkout, and print the measurement of its app for the owners' policies.

    No key and no data gets into an image. A client or app image is not signed: clf image sign does that, with a key
    that is mounted while it runs.

    Examples: clf image build server        clf image build app --app ./trainer --base ubuntu:24.04
    """
    from clf.deploy import engine as engines
    from clf.deploy import image_build

    chosen = images.check_base(base_image, meant=True) if base_image else images.check_base(base or images.DEFAULT_BASE)
    wanted = image_build.Wanted(
        kind.value,
        chosen,
        images.check_reference(tag, "tag") if tag else images.default_tag(kind.value, chosen),
        app=app,
        client=images.check_reference(client, "client") if client else None,
        gramine=gramine,
        gramine_repository=gramine_repository,
        intel_repository=intel_repository,
        no_cache=no_cache,
        pip_config=pip_config,
        ca_bundle=ca_bundle,
        python_source=python_source,
        python_sha256=python_sha256,
    )
    checkout = image_build.source(source)
    image_build.check_app(wanted)
    epoch, revision = image_build.moment(checkout, os.environ)
    shown = image_build.plan(wanted, checkout, staged=app, epoch=epoch, revision=revision)
    if dry_run:
        _print_command(engine if engine in engines.NAMES else "docker", shown)
        return
    if kind is KindChoice.client and gramine:
        image_build.check_keys(checkout)
    name = engines.choose(engine)
    with image_build.staged(wanted) as files:
        planned = image_build.plan(wanted, checkout, staged=files, epoch=epoch, revision=revision)
        _explain(name, wanted, planned)
        engines.run_build(name, planned)
    if kind is KindChoice.server:
        _say({"image": wanted.tag, "simulated": None, "sgx": None}, as_json=as_json)
        return
    _say(image_build.measured(name, wanted.tag), as_json=as_json)


def sign(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A client or app image.")],
    *,
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="The enclave's signing key, an RSA key of 3072 bits, in PEM.")
    ],
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="The signed image. Default: IMAGE-signed.")] = None,
    engine: _Engine = None,
    source: _Source = None,
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> None:
    """Sign the app of an image with Gramine's signer. The key stays outside: it is mounted while the signer runs.

    Example: clf image sign clf-client-app:gramine1.3-ubuntu24.04 --key enclave-key.pem
    """
    from clf.deploy import engine as engines
    from clf.deploy import image_build

    images.check_reference(image, "image")
    target = images.check_reference(tag or f"{image}-signed", "tag")
    checkout = image_build.source(source)
    planned = image_build.plan_signing(image, key, target, checkout, epoch=image_build.moment(checkout, os.environ)[0])
    if dry_run:
        _print_command(engine if engine in engines.NAMES else "docker", planned)
        return
    name = engines.choose(engine)
    engines.run_build(name, planned)
    _say(image_build.measured(name, target), as_json=as_json)


def measure(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A client or app image.")],
    engine: _Engine = None,
    as_json: _Json = False,
) -> None:
    """Print what owners pin of an image's app. They can build the image themselves and compare; no key is needed.

    Example: clf image measure clf-client-app:gramine1.3-ubuntu24.04
    """
    from clf.deploy import engine as engines
    from clf.deploy import image_build

    _say(image_build.measured(engines.choose(engine), images.check_reference(image, "image")), as_json=as_json)


def _print_command(name: str, planned: Build) -> None:
    from clf.deploy.engine import build_command

    print(shlex.join(build_command(name, planned)))  # type: ignore[arg-type]


def _explain(name: str, wanted: Any, planned: Build) -> None:
    from clf.deploy.engine import build_command

    def line(word: str, text: str) -> None:
        print(f"{word:<10}{text}", file=sys.stderr)

    line("image", wanted.tag)
    line("base", planned_base(planned))
    if wanted.kind == "client":
        line("gramine", "from its makers' repository, with the keys in docker/keys" if wanted.gramine else "none")
    if wanted.app:
        line("app", f"exactly the measured files of {wanted.app}")
    if planned.secrets:
        line("secrets", f"{', '.join(secret for secret, _ in planned.secrets)}: mounted while a step runs, in no layer")
    line("engine", name)
    line("command", shlex.join(build_command(name, planned)))  # type: ignore[arg-type]
    sys.stderr.flush()


def planned_base(planned: Build) -> str:
    """The image that another is built on."""
    arguments = dict(planned.arguments)
    return arguments.get("BASE_IMAGE") or arguments["CLIENT_IMAGE"]


def _say(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print(f"image             {found['image']}")
    if found["simulated"] is None:
        return
    print(f"mrenclave         {found['simulated']['mrenclave']}  (simulated platform)")
    if found["sgx"] is None:
        print("sgx               not known: no Gramine is in this image")
        return
    for name, value in found["sgx"].items():
        print(f"sgx {name:<13} {value}")
