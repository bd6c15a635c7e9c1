# SPDX-License-Identifier: Apache-2.0
"""Builds the images on a local base and looks at what was promised of them: `make images`, as root.

    1  a base image by debootstrap, from this machine's own package source
    2  server and client, by the guide's scripts; the client once more with owners, the app image on it
    3  the two-owner job, every process of it in a container of these images; the Java sample in the client image
    4  the signing step, with a stand-in for Gramine out of a signed repository
    5  every layer of every image, sizes, labels, users
    6  app, server and client built again, without a cache, are the same images

All of it runs in CI; each check is printed with what it held.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import ssl
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clf.deploy import images
from tests.images import packages
from tests.images.box import Box, FoundError, check, family, wait_for
from tests.images.layers import Scan, look, read_layout, scan_layer
from tests.shared import ROOT
from tests.world import free_port

BASE = "localhost/clf-base:debian"
SERVER, CLIENT, APP = "clf-server:images", "clf-client:images", "clf-client-app:images"
PLAIN, GRAMINE, SIGNED = "clf-client:plain", "clf-client:gramine", "clf-client-app:gramine-signed"
USER = "10001:10001"
WORK = "/work"
TIMES: list[tuple[str, float]] = []


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """A part of the run, named and timed."""
    print(f"\n--- {title}", flush=True)
    begin = time.monotonic()
    try:
        yield
    finally:
        TIMES.append((title, time.monotonic() - begin))


class Story:
    """One run."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.shared = box.folder / "shared"
        self.shared.mkdir(mode=0o755)
        self.pccs_port = free_port()
        self.ports = {name: free_port() for name in ("hospital-a", "hospital-b")}
        self.identities: dict[str, str] = {}
        # What this build is lent, with a mark in it that must be in no layer.
        self.canary = secrets.token_hex(16)
        self.pip = box.folder / "pip.conf"
        self.pip.write_text(f"[global]\n# {self.canary}\n{_pip_config(box)}")
        self.options = ["--pip-config", str(self.pip), *_ca_bundle()]
        self.key = box.folder / "enclave-key.pem"
        self.key.write_text(_rsa_key())

    # --- building --------------------------------------------------------------------------------------

    def base(self) -> None:
        """A minimal system of the release that this machine has."""
        release = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
        codename = release["VERSION_CODENAME"].strip('"')
        source = self.box.run("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)").out.split()
        mirror = next(site for site, name in zip(source[::2], source[1::2], strict=True) if name == codename)
        root = self.box.folder / "base"
        self.box.run("debootstrap", "--variant=minbase", codename, root, mirror)
        (self.box.folder / "base.dockerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["/bin/sh"]\n')
        context = self.box.folder / "context"
        context.mkdir()
        self.box.run("tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "-cf", context / "base.tar", ".")
        self.box.run("buildah", "build", "-q", "-f", self.box.folder / "base.dockerfile", "-t", BASE, context)
        shutil.rmtree(root)
        shutil.rmtree(context)
        self.codename = codename

    def script(self, kind: str, tag: str, *options: str | Path) -> dict[str, Any]:
        """The guide's script for an image, with options of ours."""
        script = ROOT / "docker" / f"build_clf_{kind}_docker_image.sh"
        done = self.box.run(
            script, "--base-image", BASE, tag, "--engine", "buildah", "--", "--json", *self.options, *options
        )
        found: dict[str, Any] = json.loads(done.out)
        return found

    def image(self, kind: str, tag: str, *options: str | Path) -> dict[str, Any]:
        """`clf image build`; what it printed."""
        done = self.box.clf("image", "build", kind, "--base-image", BASE, "--tag", tag, "--json", *options)
        found: dict[str, Any] = json.loads(done.out)
        return found

    def first(self) -> None:
        """The server, and a client as the guide's first step makes it: no owner is known yet."""
        self.script("server", SERVER)
        found = self.script("client", PLAIN, "--without-gramine")
        check(found["simulated"] is None, "a client image without owners has nothing to measure")
        done = self.box.inside(PLAIN, "/usr/local/bin/clf-start", codes=(3,))
        check("no app with owners" in done.error, "and starts nothing, and says why")

    # --- owners ----------------------------------------------------------------------------------------

    def owners(self) -> None:
        """Platform and owners, made by commands in the server image, as its user."""
        os.chown(self.shared, 10001, 10001)
        self._in_server("simulator", "init", f"{WORK}/platform")
        for name, port in self.ports.items():
            places = ["--pccs", f"http://127.0.0.1:{self.pccs_port}", "--listen", f"127.0.0.1:{port}"]
            places += ["--admin", f"127.0.0.1:{free_port()}", "--simulation-root", f"{WORK}/platform/root.pem"]
            self._in_server("server", "init", f"{WORK}/{name}", "--trust", "simulation", *places)
            self.identities[name] = json.loads(self._in_server("server", "check", f"{WORK}/{name}", "--json"))[
                "identity"
            ]
            data = self.shared / name / "data"
            (data / "patients").mkdir()
            rows = 100 if name == "hospital-a" else 50
            (data / "patients/2024.csv").write_text("name,age\n" + "".join(f"patient {i},{i}\n" for i in range(rows)))
            (data / "README.md").write_bytes(bytes(range(256)) * 40 + b"end")
        self._in_server("server", "add-key", "secret", "--dir", f"{WORK}/hospital-a")
        for path in self.shared.rglob("*"):
            os.chown(path, 10001, 10001)

    def _in_server(self, *command: str) -> str:
        # Its own ENTRYPOINT is `clf`.
        return self.box.inside(SERVER, "clf", *command, mounts=[(self.shared, WORK)], user=USER).out

    def _allow(self, owner: str, name: str, mrenclave: str, *grants: str) -> None:
        limits = ["--platform", "any", "--max-runs", "10", "--max-bytes", "1000000"]
        self._in_server("server", "allow", name, "--dir", f"{WORK}/{owner}", "--mrenclave", mrenclave, *limits, *grants)

    # --- apps ------------------------------------------------------------------------------------------

    def apps(self) -> None:
        """The sample with its owner in the client image, the two-owner job in the app image; both are allowed."""
        sample = self.box.folder / "sample"
        (sample / "certs").mkdir(parents=True)
        shutil.copy(self.shared / "hospital-a/keys/tls/ca.crt", sample / "certs/ca_cert.crt")
        port = self.ports["hospital-a"]
        text = (ROOT / "examples/java/clf.toml").read_text()
        text = text.replace("https://hospital-a.example:4433", f"https://127.0.0.1:{port}")
        text = text.replace('"hospital-a.example"', f'"127.0.0.1:{port}"')
        (sample / "clf.toml").write_text(self._pinned(text, "ca_cert", "hospital-a"))
        (sample / "notes.txt").write_text(self.canary)  # not named in clf.toml: it must not get into the image
        measured = self.image("client", CLIENT, "--without-gramine", "--app", sample, *self.options)["simulated"]
        check(
            any(file["path"] == "clf_test.class" for file in measured["files"]),
            "the Java sample is measured in the client image",
        )
        self._allow(
            "hospital-a",
            "clf-test",
            measured["mrenclave"],
            "--read",
            "README.md",
            "--key",
            "secret",
            "--write",
            "result.out",
        )

        self.app = self.box.folder / "app"
        shutil.copytree(ROOT / "examples/python", self.app)
        (self.app / "certs").mkdir()
        text = (self.app / "clf.toml").read_text()
        for name, port in self.ports.items():
            shutil.copy(self.shared / name / "keys/tls/ca.crt", self.app / f"certs/{name}.crt")
            text = text.replace(f"https://{name}.example:4433", f"https://127.0.0.1:{port}")
            text = self._pinned(text, name, name)
        (self.app / "clf.toml").write_text(text)
        measured = self.image("app", APP, "--app", self.app, "--client", CLIENT)["simulated"]
        here = json.loads(self.box.clf("measure", self.app, "--json").out)
        check(
            measured["mrenclave"] == here["mrenclave"],
            "the app image's measurement is the one that owners compute themselves",
        )
        for name in self.ports:
            self._allow(name, "patients", measured["mrenclave"], "--read", "patients/*.csv", "--write", "reports/*")

    def _pinned(self, text: str, ca: str, owner: str) -> str:
        pinned = re.escape(f'{ca}.crt"\nidentity = ["')
        changed, count = re.subn(f'({pinned})[^"]+', rf"\g<1>{self.identities[owner]}", text)
        assert count == 1
        return changed

    # --- running ---------------------------------------------------------------------------------------

    def job(self) -> None:
        """Two owners' servers, the collateral service and the apps, each in a container of its image."""
        logs = self.box.folder
        with contextlib.ExitStack() as stack:
            platform = stack.enter_context(self.box.container(SERVER, (self.shared, WORK)))
            pccs = stack.enter_context(
                self.box.serving(
                    logs / "pccs.log", "buildah", "run", "--user", USER, platform, "--", "clf", "simulator", "pccs",
                    f"{WORK}/platform", "--port", str(self.pccs_port),
                )
            )  # fmt: skip
            wait_for(
                lambda: _answers(f"http://127.0.0.1:{self.pccs_port}/sgx/certification/v4/rootcacrl"),
                pccs,
                logs / "pccs.log",
            )
            for name, port in self.ports.items():
                log = logs / f"{name}.log"
                script = ROOT / "docker/start_clf_server_container.sh"
                server = stack.enter_context(
                    self.box.serving(log, script, "", SERVER, "--owner", self.shared / name, "--engine", "buildah")
                )
                ca = str(self.shared / name / "keys/tls/ca.crt")
                wait_for(
                    lambda port=port, ca=ca: _answers(f"https://127.0.0.1:{port}/.well-known/clf", ca), server, log
                )
                users = {user for pid in family(server.pid) if (user := _user_of_server(pid)) is not None}
                check(users == {10001}, f"{name}'s server runs as user 10001, started by the guide's script")

            said = self._app(APP)
            check(said.count("delivered") == 2, "the two-owner job ran in the app image")
            for name in self.ports:
                report = json.loads((self.shared / name / "results/reports/python.json").read_text())
                check(
                    report == {"patients": 150, "age_sum": 99 * 50 + 49 * 25},
                    f"{name} has the report over both owners' patients",
                )
            said = self._app(CLIENT)
            check("signed for" in said, "the Java sample ran in the client image")
            result = (self.shared / "hospital-a/results/result.out").read_text()
            check(
                result == _expected_result((self.shared / "hospital-a/data/README.md").read_bytes()),
                "and computed what it should",
            )
        for name in self.ports:
            self._in_server("audit", "verify", f"{WORK}/{name}")
        check(True, "both audit logs are verified")

    def _app(self, image: str) -> str:
        command = ["/usr/local/bin/clf-start", "clf", "run", images.APP_FOLDER, "--platform", f"{WORK}/platform"]
        return self.box.inside(image, *command, mounts=[(self.shared, WORK)]).out

    # --- signing ---------------------------------------------------------------------------------------

    def signing(self) -> None:
        """Gramine from a signed repository, and the step that is lent the key. The program there is a stand-in."""
        repository = self.box.folder / "packages"
        repository.mkdir()
        packages.make(repository, self.codename, "1.9-0clf1")
        checkout = self.box.folder / "checkout"
        for name in (
            ".dockerignore",
            "LICENSE",
            "README.md",
            "pyproject.toml",
            "docker",
            "requirements",
            "src",
            "sdk/java",
            "examples/java",
        ):
            here, there = ROOT / name, checkout / name
            there.parent.mkdir(parents=True, exist_ok=True)
            ignored = shutil.ignore_patterns("target", "__pycache__")
            shutil.copytree(here, there, ignore=ignored) if here.is_dir() else shutil.copy(here, there)
        keys = checkout / "docker/keys"
        options: list[str | Path] = ["--source", checkout, "--app", self.box.folder / "sample", *self.options]
        done = self.box.clf("image", "build", "client", "--base-image", BASE, "--tag", GRAMINE, *options, codes=(3,))
        check("docker/keys lacks" in done.error, "without checked keys no Gramine is installed")
        with packages.served(repository) as url:
            options += ["--gramine-repository", url, "--intel-repository", url.replace("127.0.0.1", "localhost")]
            shutil.copy(repository / "key.gpg", keys / "gramine.gpg")
            shutil.copy(repository / "key.gpg", keys / "intel-sgx.asc")
            sums = self.box.run("sh", "-c", f"cd {keys} && sha256sum gramine.gpg intel-sgx.asc").out
            (keys / "SHA256SUMS").write_text(sums.replace(sums[:8], "00000000", 1))
            done = self.box.clf(
                "image", "build", "client", "--base-image", BASE, "--tag", GRAMINE, *options, codes=(1,)
            )
            check("is not the one in SHA256SUMS" in done.error, "a key that is not the checked one stops the build")
            (keys / "SHA256SUMS").write_text(sums)
            self.image("client", GRAMINE, *options)
        unsigned = self.image(
            "app", "clf-client-app:gramine", "--app", self.app, "--client", GRAMINE, "--source", checkout
        )
        check(unsigned["sgx"]["mr_enclave"], "an unsigned image says what its MRENCLAVE will be")
        signed = json.loads(
            self.box.clf(
                "image",
                "sign",
                "clf-client-app:gramine",
                "--key",
                self.key,
                "--tag",
                SIGNED,
                "--json",
                "--source",
                checkout,
            ).out
        )
        check(signed["sgx"]["mr_enclave"] == unsigned["sgx"]["mr_enclave"], "and signing does not change it")
        start = "/usr/local/bin/clf-start"
        check(
            "not signed" in self.box.inside("clf-client-app:gramine", start, codes=(3,)).error,
            "an unsigned image starts no enclave",
        )
        check(
            "/dev/sgx_enclave" in self.box.inside(SIGNED, start, codes=(1,)).error, "nor does a signed one without SGX"
        )
        done = self.box.inside(SIGNED, start, "other.py", codes=(2,))
        check("the arguments are measured" in done.error, "other arguments than the measured ones are refused")
        check(
            "/dev/sgx_enclave" in self.box.inside(SIGNED, start, "app.py", codes=(1,)).error,
            "the measured ones may be repeated",
        )

    # --- looking ---------------------------------------------------------------------------------------

    def look(self) -> None:
        """Every layer, and what the images say of themselves."""
        check(
            look(self.key.read_bytes(), []) and look(b'password = "' + b"a" * 24 + b'"', []),
            "the scanner finds keys and tokens",
        )
        layout = self.box.folder / "layout"
        tags = [SERVER, PLAIN, CLIENT, APP, GRAMINE, SIGNED]
        for tag in tags:
            self.box.run("buildah", "push", "-q", tag, f"oci:{layout}:{tag.replace(':', '-')}")
        found = read_layout(layout)
        lent = [self.canary.encode(), self.key.read_bytes().splitlines()[3], self.key.read_bytes().splitlines()[7]]
        lent += [
            path.read_bytes().splitlines()[1]
            for path in self.shared.rglob("*.pem")
            if b"PRIVATE" in path.read_bytes()[:60]
        ]
        check(len(lent) > 4, "with the owners' private keys among what must not be found")
        scan, seen = Scan(), set[Path]()
        for tag in tags:
            image = found[tag.replace(":", "-")]
            for layer in image["layers"]:
                if layer not in seen:
                    seen.add(layer)
                    scan_layer(layer, lent, scan)
            scan.findings += [
                f"{tag}: {what} in its configuration" for what in look(json.dumps(image["config"]).encode(), lent)
            ]
        check(
            not scan.findings,
            f"no key, token or lent secret in {len(seen)} layers, {scan.files} files {scan.findings[:5] or ''}",
        )
        self._labels(found)
        print(f"\n{'image':<34}{'MB packed':>10}{'layers':>8}  user")
        for tag in tags:
            image = found[tag.replace(":", "-")]
            size = sum(layer.stat().st_size for layer in image["layers"])
            user = image["config"]["config"].get("User", "root")
            print(f"{tag:<34}{size / 1e6:>10.0f}{len(image['layers']):>8}  {user}")

    def _labels(self, found: dict[str, dict[str, Any]]) -> None:
        for tag, title in ((SERVER, "clf-server"), (CLIENT, "clf-client"), (APP, "clf-client-app")):
            config = found[tag.replace(":", "-")]["config"]["config"]
            labels = config["Labels"]
            names = {
                f"org.opencontainers.image.{name}"
                for name in ("title", "description", "version", "revision", "base.name")
            }
            check(names <= set(labels) and labels["org.opencontainers.image.title"] == title, f"{tag} says what it is")
        check(found[SERVER.replace(":", "-")]["config"]["config"]["User"] == USER, "the server image names its user")

    def again(self) -> None:
        """The same sources and time give the same images, when nothing of them is remembered."""
        sample = self.box.folder / "sample"
        for kind, first, options in (
            # The app first: once its client has a second tag, what buildah builds on it is another image.
            ("app", APP, ["--app", self.app, "--client", CLIENT]),
            ("server", SERVER, self.options),
            ("client", CLIENT, ["--without-gramine", "--app", sample, *self.options]),
        ):
            self.image(kind, f"clf-{kind}:again", "--no-cache", *options)
            check(self._id(f"clf-{kind}:again") == self._id(first), f"the {kind} image is the same")

    def _id(self, image: str) -> str:
        return str(self.box.inspect(image)["FromImageID"])


def _answers(url: str, ca: str | None = None) -> bool:
    context = ssl.create_default_context(cafile=ca) if ca else None
    try:
        with urllib.request.urlopen(url, context=context, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _user_of_server(pid: int) -> int | None:
    """The user of a process that is an owner's server; None for any other."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"run" in words and any(word.endswith(b"/clf") for word in words) and not words[0].endswith(b"buildah"):
            status = Path(f"/proc/{pid}/status").read_text()
            return int(re.findall(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)[0])
    return None


def _expected_result(content: bytes) -> str:
    offset = total = summed = 0
    for _ in range(2000):
        piece = content[offset : offset + 32]
        total += len(piece)
        summed += sum(piece)
        offset = offset + len(piece) if len(piece) == 32 else 0
    return f"bytes={total} sum={summed}\n"


def _pip_config(box: Box) -> str:
    """What pip is told on this machine, for the builds: they see neither its files nor its environment."""
    lines = []
    for line in box.run(sys.executable, "-m", "pip", "config", "list").out.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in ("index-url", "extra-index-url", "proxy", "timeout", "trusted-host"):
            lines.append(f"{key} = {value.strip(chr(39))}\n")
    return "".join(lines)


def _ca_bundle() -> list[str]:
    for place in (os.environ.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt"):
        if place and Path(place).is_file():
            return ["--ca-bundle", place]
    return []


def _rsa_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=3, key_size=3072)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()


def main() -> int:
    """All of it; 0 only if all of it held."""
    if os.geteuid() != 0:
        print("make images needs root: it makes a base image with debootstrap", file=sys.stderr)
        return 1
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    box = Box(Path(tempfile.mkdtemp(prefix="images-", dir=build)))
    box.folder.chmod(0o755)  # the server's user goes through it to its folder
    code = 0
    try:
        story = Story(box)
        for title, part in (
            ("a local base image", story.base),
            ("server and client by the guide's scripts", story.first),
            ("owners in the server image", story.owners),
            ("client with its owner, app image", story.apps),
            ("the jobs, inside the images", story.job),
            ("the signing step", story.signing),
            ("every layer", story.look),
            ("built again", story.again),
        ):
            with step(title):
                part()
    except FoundError as error:
        print(f"  FAILED  {error}", flush=True)
        code = 1
    finally:
        with step("removed"):
            box.close()
    print("\nseconds")
    for title, seconds in TIMES:
        print(f"  {seconds:>6.0f}  {title}")
    print(f"  {sum(seconds for _, seconds in TIMES):>6.0f}  together")
    return code


if __name__ == "__main__":
    sys.exit(main())
