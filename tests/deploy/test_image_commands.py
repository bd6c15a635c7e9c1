# SPDX-License-Identifier: Apache-2.0
"""`clf image`: which engine, which command, what gets into a build and what does not. `make images` builds for real."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from clf.deploy import engine, image_build, images
from clf.deploy.engine import Build, EngineError, build_command, choose
from clf.deploy.image_build import Wanted
from clf.errors import ConfigError
from tests.shared import ROOT
from tests.world import CLF, run_clf

BUILD = Build(
    dockerfile=Path("/x/docker/a.dockerfile"),
    context=Path("/x"),
    tag="clf-client:t",
    arguments=(("A", "1"),),
    secrets=(("signing-key", Path("/keys/k.pem")),),
    contexts=(("app", Path("/staged")),),
    epoch=1700000000,
)


def wanted(kind: image_build.Kind = "client", **options: object) -> Wanted:
    """A request, on the default base."""
    return Wanted(kind, images.DEFAULT_BASE, images.default_tag(kind, images.DEFAULT_BASE), **options)  # type: ignore[arg-type]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app with a file that is not part of it, a secret one at that."""
    folder = tmp_path / "app"
    (folder / "certs").mkdir(parents=True)
    (folder / "certs/a.crt").write_text("CA\n")
    (folder / "app.py").write_text("print()\n")
    (folder / ".env").write_text("PASSWORD=x\n")
    (folder / "clf.toml").write_text(
        '[app]\nname = "x"\ncommand = ["python3", "app.py"]\nfiles = ["*.py"]\n[owner.a]\nurl = "https://a.example:4433"\n'
        'ca = "certs/a.crt"\nidentity = ["T74r5XmxWWeAluA4SCzBfkoOYGZKu5XmiBbexNLn98Y"]\n'
    )
    return folder


@pytest.mark.parametrize("name", engine.NAMES)
def test_each_engine_gets_the_same_build_in_its_own_words(name: engine.Name) -> None:
    """File, tag, arguments, secrets and contexts; and one time for all that is made."""
    command = build_command(name, BUILD)
    assert command[:2] == [name, "build"]
    text = shlex.join(command)
    assert "--file /x/docker/a.dockerfile --tag clf-client:t --build-arg A=1" in text
    assert "--secret id=signing-key,src=/keys/k.pem --build-context app=/staged" in text
    assert text.endswith(" /x")
    assert ("SOURCE_DATE_EPOCH=1700000000" if name == "docker" else "--timestamp 1700000000") in text


def test_the_first_engine_that_works_is_taken_and_the_others_reasons_are_told() -> None:
    """A docker client without a daemon is no engine."""
    answers = {"docker": "Cannot connect to the Docker daemon", "podman": "not installed", "buildah": ""}
    assert choose(None, lambda name: answers[name]) == "buildah"
    answers["buildah"] = "not installed"
    with pytest.raises(EngineError, match=r"docker: Cannot connect.*podman: not installed.*buildah: not installed"):
        choose(None, lambda name: answers[name])
    with pytest.raises(EngineError, match="docker: Cannot connect"):
        choose("docker", lambda name: answers[name])
    with pytest.raises(ConfigError, match="kaniko"):
        choose("kaniko")


def test_a_client_without_a_daemon_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real probe, with a program that fails as docker's client does without its daemon."""
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon. Is it running?' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "Is it running?" in engine.probe("docker")
    program.write_text("#!/bin/sh\necho 27.0.1\n")
    assert engine.probe("docker") == ""


def test_exactly_the_measured_files_get_into_an_app_image(app: Path) -> None:
    """What lies beside them stays outside, and modes do not depend on the developer's umask."""
    (app / "app.py").chmod(0o600)
    with image_build.staged(wanted("app", app=app)) as folder:
        assert folder is not None
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        assert found == ["app.py", "certs/a.crt", "clf.toml"]
        assert stat.S_IMODE((folder / "app.py").stat().st_mode) == 0o644
        kept = folder
    assert not kept.exists()


def test_a_client_takes_the_samples_owner_without_the_sample(app: Path) -> None:
    """clf.toml and CAs are enough: the classes are made in the image. Without a CA it is refused here."""
    (app / "app.py").unlink()
    with image_build.staged(wanted("client", app=app)) as folder:
        assert folder is not None
        assert {path.name for path in folder.rglob("*") if path.is_file()} == {"a.crt", "clf.toml"}
    (app / "certs/a.crt").unlink()
    with pytest.raises(ConfigError, match="the CA of a"), image_build.staged(wanted("client", app=app)):
        pass


def test_a_key_is_a_secret_of_the_signing_step_and_nothing_else(tmp_path: Path) -> None:
    """Its path stands behind --secret alone, and the context is a folder without it."""
    key = tmp_path / "enclave-key.pem"
    key.write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    planned = image_build.plan_signing("clf-client:x", key, "clf-client:x-signed", ROOT, epoch=0)
    command = build_command("buildah", planned)
    assert [word for word in command if str(key) in word] == [f"id=signing-key,src={key}"]
    assert "PRIVATE" not in shlex.join(command)
    assert not key.is_relative_to(planned.context)
    with pytest.raises(ConfigError, match="no readable file"):
        image_build.plan_signing("clf-client:x", tmp_path / "none.pem", "t", ROOT, epoch=0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["build", "server", "--base", "debian:12"], 3, "ubuntu:24.04"),
        (["build", "server", "--base-image", "-v"], 3, "not the name of an image"),
        (["build", "toaster"], 2, "toaster"),
        (["build", "app"], 3, "--app DIR"),
        (["build", "server", "--app", "."], 3, "a server image has no app"),
        (["build", "server", "--engine", "kaniko"], 3, "docker, podman, buildah"),
        (["build", "client", "--gramine-repository", "http://x y", "--without-gramine"], 3, "no URL"),
        (["build", "server", "--pip-config", "/nonexistent/pip.conf"], 3, "no readable file"),
        (["sign", "x", "--key", "/nonexistent"], 3, "no readable file"),
        (["sign", "x"], 2, "--key"),
    ],
)
def test_wrong_usage(arguments: list[str], code: int, words: str) -> None:
    """Field, value and remedy, before anything is built."""
    done = subprocess.run([*CLF, "image", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == code, done.stderr
    assert words in done.stderr


def test_without_checked_keys_gramine_is_refused_before_minutes_of_building(tmp_path: Path) -> None:
    """A checkout whose docker/keys is empty."""
    with pytest.raises(ConfigError, match=r"gramine\.gpg, intel-sgx\.asc, SHA256SUMS") as caught:
        image_build.check_keys(tmp_path)
    assert "--without-gramine" in caught.value.remedy


@pytest.mark.parametrize("base", images.BASES)
def test_a_dry_run_shows_the_engines_command(base: str) -> None:
    """Every base that is offered, and the tag that the guide gives it."""
    text = run_clf("image", "build", "client", "--base", base, "--dry-run", "--without-gramine", "--engine", "podman")
    words = shlex.split(text)
    assert words[:2] == ["podman", "build"]
    assert f"BASE_IMAGE={base}" in words
    assert "WITH_GRAMINE=0" in words
    assert words[words.index("--tag") + 1] == images.default_tag("client", base)
    assert Path(words[words.index("--file") + 1]).is_file()


def test_builds_happen_at_a_time_that_can_be_given() -> None:
    """SOURCE_DATE_EPOCH, else the commit's; never now."""
    assert image_build.moment(ROOT, {"SOURCE_DATE_EPOCH": "12345"})[0] == 12345
    assert image_build.moment(ROOT, {}) == image_build.moment(ROOT, {})
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH"):
        image_build.moment(ROOT, {"SOURCE_DATE_EPOCH": "yesterday"})


def test_nothing_but_sources_is_in_the_build_context() -> None:
    """A checkout's environment, history, results and keys are never sent to an engine."""
    listed = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in listed if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {"!.git", "!.venv", "!build", "!."}.isdisjoint(rules)


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """docker/start.sh with its folder elsewhere."""
    script = folder / "start.sh"
    script.write_text((ROOT / "docker/start.sh").read_text().replace("folder=/clf/gramine", f"folder={folder}"))
    return subprocess.run(["sh", script, *arguments], capture_output=True, text=True, check=False)


def test_a_container_starts_what_was_signed_and_nothing_else(tmp_path: Path) -> None:
    """No manifest, other arguments, no signature: each has its exit code; the same arguments pass."""
    assert start(tmp_path).returncode == 3
    (tmp_path / "app.manifest").touch()
    (tmp_path / "app.arguments").write_text("-Xmx4G\nclf_test\nhospital-a.example\n")
    assert start(tmp_path, "-Xmx4G", "Other", "hospital-a.example").returncode == 2
    assert start(tmp_path, "-Xmx4G", "clf_test").returncode == 2
    done = start(tmp_path, "-Xmx4G", "clf_test", "hospital-a.example")
    assert done.returncode == 3
    assert "not signed" in done.stderr
    assert start(tmp_path, "clf_test\nhospital-a.example").returncode == 2


def test_measured_is_machine_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image says of itself is passed on; without Gramine there is no MRENCLAVE, and none is made up."""
    answers = {"clf": json.dumps({"mrenclave": "ab"})}

    def run_in(_name: object, _image: str, entrypoint: str, _arguments: object) -> str:
        if entrypoint not in answers:
            raise EngineError(f"{entrypoint} is not in it")
        return answers[entrypoint]

    monkeypatch.setattr(engine, "run_in", run_in)
    assert image_build.measured("buildah", "x") == {"image": "x", "simulated": {"mrenclave": "ab"}, "sgx": None}
    answers["gramine-sgx-sign"] = ""
    answers[image_build.START] = json.dumps({"mr_enclave": "cd"})
    assert image_build.measured("buildah", "x")["sgx"] == {"mr_enclave": "cd"}
