# SPDX-License-Identifier: Apache-2.0
"""The scripts in docker/: the guide's arguments, and a container that gets no more than it needs."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from clf.deploy import images
from tests.deploy.scripts import fake_program, recorded, script
from tests.shared import ROOT

BUILD = {kind: f"docker/build_{name.replace('-', '_')}_docker_image.sh" for kind, name in images.NAMES.items()}
START = {kind: f"docker/start_clf_{kind}_container.sh" for kind in ("client", "server")}


def dry(name: str, *arguments: str, cwd: Path | None = None) -> list[str]:
    """What a script would do, as words."""
    return shlex.split(script(name, *arguments, "--dry-run", cwd=cwd).stdout)


# --- building ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["client", "server"])
@pytest.mark.parametrize("base", [None, *images.BASES, "ubuntu20.04", ""])
def test_bases_and_tags_are_those_of_the_package(kind: str, base: str | None) -> None:
    """Script and `clf image build` agree on bases, default base and tags, for every spelling of the guide."""
    found = dry(BUILD[kind], *([] if base is None else [base]))
    known = images.check_base(base) if base else images.DEFAULT_BASE
    assert found == ["clf", "image", "build", kind, "--base", known, "--tag", images.default_tag(kind, known)]


@pytest.mark.parametrize("kind", ["client", "server"])
def test_another_base_is_refused_with_the_list_unless_meant(kind: str) -> None:
    """A base that is not known is wrong usage, and the message names those that are; --base-image says it is meant."""
    done = script(BUILD[kind], "debian:12", "--dry-run", expect=2)
    assert all(base in done.stderr for base in images.BASES)
    assert dry(BUILD[kind], "--base-image", "debian:12") == [
        "clf", "image", "build", kind, "--base-image", "debian:12", "--tag", images.default_tag(kind, "debian:12"),
    ]  # fmt: skip
    assert dry(BUILD[kind], "--base-image", "debian:12", "mine:1")[-1] == "mine:1"


def test_an_app_is_built_on_a_client_image() -> None:
    """The first argument is a client image, as ever, or the system that one was built on."""
    name = BUILD["app"]
    default = images.default_tag("client", images.DEFAULT_BASE)
    assert dry(name)[3:] == [
        "app", "--client", default, "--tag", images.default_tag("app", images.DEFAULT_BASE), "--app",
        str(ROOT / "docker/app"),
    ]  # fmt: skip
    assert dry(name, "ubuntu:22.04")[5] == "clf-client:gramine1.3-ubuntu22.04"
    assert dry(name, "clf-client:mine", "app:1", "--app", "x")[5:] == [
        "clf-client:mine",
        "--tag",
        "app:1",
        "--app",
        "x",
    ]
    script(name, "debian:12", "--dry-run", expect=2)
    assert dry(name, "--base-image", "registry.example/client:1")[5] == "registry.example/client:1"


def test_further_options_go_to_clf_image_build() -> None:
    """What only `clf image build` knows stands after --."""
    assert dry(BUILD["client"], "ubuntu:24.04", "--engine", "podman")[-2:] == ["--engine", "podman"]
    done = script(BUILD["client"], "ubuntu:24.04", "--dry-run", "--", "--app", "my app")
    assert shlex.split(done.stdout)[-2:] == ["--app", "my app"]


def test_without_python_the_engine_builds_alone(tmp_path: Path) -> None:
    """The guide's user has Docker and Ubuntu 20.04, whose Python is older than ours: the Dockerfile is enough."""
    copy = tmp_path / "checkout"
    for folder in ("docker", "tools"):
        (copy / folder).mkdir(parents=True)
        for path in (ROOT / folder).glob("*.sh"):
            (copy / folder / path.name).write_bytes(path.read_bytes())
            (copy / folder / path.name).chmod(0o755)
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in ("bash", "dirname", "cat", "sed", "tr", "env"):
        (tools / program).symlink_to(f"/usr/bin/{program}")
    record = fake_program(tools, "docker")
    script(
        str(copy / "docker/build_clf_client_docker_image.sh"), "ubuntu:20.04", environment={"PATH": str(tools)},
    )  # fmt: skip
    here = str(copy / "docker")
    assert recorded(record) == [
        "info", "build", "--build-arg", "BASE_IMAGE=ubuntu:20.04", "-f", f"{here}/clf_client.dockerfile", "-t",
        "clf-client:gramine1.3-ubuntu20.04", f"{here}/..",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", images.NAMES)
def test_clf_image_build_takes_what_the_scripts_give(kind: str, tmp_path: Path) -> None:
    """What a script hands on is understood: the same command, one step further, prints the engine's."""
    (tmp_path / "clf.toml").write_text('[app]\nname = "a"\ncommand = ["python3", "a.py"]\nfiles = ["a.py"]\n')
    arguments = ["--app", str(tmp_path)] if kind == "app" else ["ubuntu:24.04"]
    done = script(BUILD[kind], *arguments, "--engine", "buildah", "--", "--dry-run")
    words = shlex.split(done.stdout)
    base = images.DEFAULT_BASE if kind == "app" else "ubuntu:24.04"
    assert words[0] == "buildah"
    assert images.default_tag(kind, base) in words
    assert str(ROOT / "docker" / f"clf_{kind}.dockerfile".replace("clf_app", "clf_client_app")) in words


# --- starting ------------------------------------------------------------------------------------


def test_the_client_in_the_old_order_of_arguments() -> None:
    """ip, server_name, image_tag; SGX devices, AESM socket, the server's address; loopback means this machine."""
    words = dry(START["client"], "192.0.2.7", "hospital.example", "clf-client:mine")
    assert words[:2] == ["docker", "run"]
    assert words[-1] == "clf-client:mine"
    for wanted in ("--add-host=hospital.example:192.0.2.7", "--device=/dev/sgx_enclave", "--device=/dev/sgx_provision"):
        assert wanted in words
    assert "/var/run/aesmd/aesm.socket:/var/run/aesmd/aesm.socket" in words
    default = dry(START["client"])
    assert default[-1] == images.default_tag("client", images.DEFAULT_BASE)
    assert f"--add-host={os.uname().nodename}:host-gateway" in default
    assert not [word for word in dry(START["client"], "--simulation") if "/dev/" in word]


def test_the_server_in_the_old_order_of_arguments(tmp_path: Path) -> None:
    """pccs_ip, image_tag; port 4433, the owner's folder and its user, and no device, because a server needs none."""
    words = dry(START["server"], "192.0.2.9", "clf-server:mine", cwd=tmp_path)
    assert words[-1] == "clf-server:mine"
    assert words[words.index("-p") + 1] == "4433:4433"
    assert "--add-host=pccs.service.com:192.0.2.9" in words
    assert words[words.index("-v") + 1] == f"{tmp_path}:{images.OWNER_FOLDER}"
    assert words[words.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert not [word for word in words if "/dev/" in word]
    assert "--device=/dev/sgx_enclave" in dry(START["server"], "--sgx", "--owner", str(tmp_path))
    assert "--rm" in words
    detached = dry(START["server"], "--detach", cwd=tmp_path)
    assert {"-d", "--restart=unless-stopped"} <= set(detached)
    assert "--rm" not in detached


@pytest.mark.parametrize("kind", START)
def test_flaw_24_no_needless_privilege(kind: str) -> None:
    """No seccomp=unconfined, SYS_PTRACE, /home, host network, privilege, or PCCS of others."""
    texts = [" ".join(dry(START[kind])), (ROOT / START[kind]).read_text(), (ROOT / "docker/common.sh").read_text()]
    for text in texts:
        for word in ("unconfined", "PTRACE", "host-home", "net=host", "network=host", "--privileged", "tencent"):
            assert word not in text
        assert not re.search(r"cap-add|/home:", text)
    assert "--cap-drop=ALL" in texts[0]
    assert "--security-opt=no-new-privileges" in texts[0]


def test_the_server_needs_an_owners_folder(tmp_path: Path) -> None:
    """Without clf_server.toml there is nothing to serve; whole machines and /home are no owner's folder."""
    done = script(START["server"], cwd=tmp_path, expect=1)
    assert "clf server init" in done.stderr
    for folder in ("/", "/home", "a:b"):
        script(START["server"], "--owner", folder, "--dry-run", expect=2)


def test_an_engine_that_works_is_taken(tmp_path: Path) -> None:
    """docker without a daemon is passed over for podman; without any, the remedy is named."""
    (tmp_path / "clf_server.toml").touch()
    docker, podman = fake_program(tmp_path, "docker", exit_code=1), fake_program(tmp_path, "podman")
    path = f"{tmp_path}:/usr/bin:/bin"
    script(START["server"], "--owner", str(tmp_path), environment={"PATH": path})
    assert recorded(docker) == ["info"]
    assert recorded(podman)[:2] == ["info", "run"]
    assert recorded(podman)[-1] == images.default_tag("server", images.DEFAULT_BASE)
    done = script(START["server"], "--owner", str(tmp_path), "--engine", "docker", expect=1, environment={"PATH": path})
    assert "remedy" in done.stderr


def test_buildah_runs_images_too(tmp_path: Path) -> None:
    """buildah alone starts a container: made with the same options, its own command run, removed afterwards."""
    (tmp_path / "clf_server.toml").touch()
    record = tmp_path / "calls"
    program = tmp_path / "buildah"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{record}\ncase $1 in\n'
        "from) echo made ;;\ninspect) printf 'clf\\nserver\\n\\n' ;;\nrun) exit 7 ;;\nesac\n"
    )
    program.chmod(0o755)
    script(
        START["server"], "--owner", str(tmp_path), "--engine", "buildah", expect=7,
        environment={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    calls = [line.split() for line in record.read_text().splitlines()]
    assert [call[0] for call in calls] == ["from", "inspect", "run", "rm"]
    assert "--cap-drop=ALL" in calls[0]
    assert "--add-host=pccs.service.com:127.0.0.1" in calls[0]
    assert f"{tmp_path}:{images.OWNER_FOLDER}" in calls[0]
    assert calls[2][-4:] == ["made", "--", "clf", "server"]
    assert calls[3] == ["rm", "made"]
