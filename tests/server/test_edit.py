# SPDX-License-Identifier: Apache-2.0
"""`clf server allow` and `revoke` change exactly what was asked for, keep comments, and assume nothing."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf.errors import ConfigError
from clf.server import edit
from clf.server.config import FILE_NAME, load
from clf.server.edit import Identity, Wish
from clf.server.explain import check
from tests.server.owner import HEX, NOW, TEXT, make, read

OTHER = "cd" * 32
WHO = Identity(mrenclave=(OTHER,), platforms=("any",))
WHAT = Wish(read=("patients/*.csv",), max_runs="10", max_bytes="1000")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An owner's folder with the file that init wrote."""
    return make(tmp_path / "owner").folder


@pytest.fixture
def written(folder: Path) -> Path:
    """An owner's folder with a file that a person has worked on."""
    (folder / FILE_NAME).write_text(TEXT)
    return folder


def text(folder: Path) -> str:
    """The file as it stands."""
    return (folder / FILE_NAME).read_text()


def test_allow_adds_one_grant_per_action_and_keeps_every_line(folder: Path) -> None:
    """Each action gets a grant of its own with the limits given; all that was in the file stays as it was."""
    before = text(folder)
    wish = replace(WHAT, write=("out/*",), list=("patients/**",), until="2030-01-31T00:00:00Z")
    change = edit.allow(folder, "trainer", WHO, wish, now=NOW)
    assert text(folder).startswith(before)
    assert change.grants == ("trainer-read", "trainer-write", "trainer-list")
    policy = load(folder).policy
    assert change.config.policy == policy
    assert [(grant.actions, grant.paths, grant.max_bytes) for grant in policy.grants] == [
        (("read",), ("patients/*.csv",), 1000),
        (("write",), ("out/*",), 1000),
        (("list",), ("patients/**",), None),
    ]
    assert {(grant.enclave, grant.max_runs, grant.until) for grant in policy.grants} == {("trainer", 10, 1_896_048_000)}
    rule = policy.enclave("trainer")
    assert rule is not None
    assert rule.sgx is not None
    assert (rule.sgx.mrenclave, rule.platforms) == ((bytes.fromhex(OTHER),), "any")
    assert check(folder, NOW).ok


@pytest.mark.parametrize(
    ("identity", "wish", "missing"),
    [
        (Identity(), WHAT, ["--mrenclave", "--platform"]),
        (replace(WHO, platforms=()), WHAT, ["--platform"]),
        (WHO, replace(WHAT, max_runs=None), ["--max-runs"]),
        (WHO, replace(WHAT, max_bytes=None), ["--max-bytes"]),
        (Identity(), Wish(write=("x",)), ["--mrenclave", "--platform", "--max-runs", "--max-bytes"]),
        (replace(WHO, mrenclave=(), mrsigner=(OTHER,)), WHAT, ["--product-id", "--min-svn", "--delegates-to-signer"]),
    ],
)
def test_what_is_not_given_is_refused_with_what_to_add(
    folder: Path, identity: Identity, wish: Wish, missing: list[str]
) -> None:
    """Nothing is assumed: the error lists every option that is missing, and the file is untouched."""
    before = text(folder)
    with pytest.raises(ConfigError) as caught:
        edit.allow(folder, "trainer", identity, wish, now=NOW)
    for option in ("--mrenclave", "--platform", "--max-runs", "--max-bytes", "--product-id", "--min-svn"):
        assert (option in caught.value.remedy) == (option in missing), option
    assert text(folder) == before


@pytest.mark.parametrize(
    ("identity", "changes"),
    [
        (replace(WHO, mrenclave=("xyz",)), {}),
        (replace(WHO, mrenclave=("any",)), {}),
        (replace(WHO, mrenclave=(OTHER[:-2],)), {}),
        (replace(WHO, mrsigner=(OTHER,)), {}),
        (replace(WHO, min_svn=1), {}),
        (replace(WHO, platforms=("all",)), {}),
        (replace(WHO, platforms=("any", "ab" * 16)), {}),
        (replace(WHO, tcb="none"), {}),
        (WHO, {"read": ("../x",)}),
        (WHO, {"read": ("a/",)}),
        (WHO, {"keys": ("absent",)}),
        (WHO, {"max_runs": "0"}),
        (WHO, {"max_runs": "-1"}),
        (WHO, {"max_runs": "ten"}),
        (WHO, {"max_runs": "1e9"}),
        (WHO, {"max_runs": "٣"}),
        (WHO, {"max_bytes": ""}),
        (WHO, {"until": "tomorrow"}),
        (WHO, {"until": "2030-01-31"}),
        (WHO, {"until": "2020-01-31T00:00:00Z"}),
    ],
)
def test_a_wrong_value_leaves_the_file_as_it_was(written: Path, identity: Identity, changes: dict[str, Any]) -> None:
    """The result is validated before it replaces anything: no half-made policy, no file left over."""
    before, names = text(written), sorted(os.listdir(written))
    with pytest.raises(ConfigError):
        edit.allow(written, "new", identity, replace(WHAT, **changes), now=NOW)
    assert text(written) == before
    assert sorted(os.listdir(written)) == names


def test_allowing_nothing_is_an_error(written: Path) -> None:
    """An allow that changes nothing says what it could have been given."""
    with pytest.raises(ConfigError, match="nothing to allow"):
        edit.allow(written, "trainer", Identity(), Wish(), now=NOW)


@pytest.mark.parametrize("name", ["", "a b", "a\n[x]", 'a"]', "../a", "a" * 65])
def test_a_name_cannot_add_tables(written: Path, name: str) -> None:
    """An enclave's name that is none is refused, whatever it would do to the file."""
    before = text(written)
    with pytest.raises(ConfigError):
        edit.allow(written, name, WHO, WHAT, now=NOW)
    assert text(written) == before


def test_a_known_enclave_gets_further_grants_without_being_described_again(written: Path) -> None:
    """A second allow needs no identity, and existing grants are never changed by it."""
    change = edit.allow(written, "trainer", Identity(), Wish(list=("**",), max_runs="unlimited"), now=NOW)
    assert (change.grants, change.enclave_changed) == (("trainer-list",), False)
    assert text(written).startswith(TEXT)
    with pytest.raises(ConfigError, match="'trainer-read' exists"):
        edit.allow(written, "trainer", Identity(), WHAT, now=NOW)


def test_a_new_measurement_is_added_or_replaces_only_if_the_owner_says_which(written: Path) -> None:
    """All grants of a name extend to a new measurement, so it takes a word more than that measurement."""
    fresh = Identity(mrenclave=(OTHER,))
    with pytest.raises(ConfigError, match="all of its grants would extend"):
        edit.allow(written, "trainer", fresh, Wish(), now=NOW)
    assert text(written) == TEXT
    change = edit.allow(written, "trainer", fresh, Wish(), now=NOW, update="add")
    assert (change.grants, change.enclave_changed) == ((), True)
    rule = change.config.policy.enclave("trainer")
    assert rule is not None
    assert rule.sgx is not None
    assert rule.sgx.mrenclave == (bytes.fromhex(HEX), bytes.fromhex(OTHER))
    change = edit.allow(written, "trainer", fresh, Wish(), now=NOW, update="replace")
    rule = change.config.policy.enclave("trainer")
    assert rule is not None
    assert rule.sgx is not None
    assert rule.sgx.mrenclave == (bytes.fromhex(OTHER),)
    assert text(written) == TEXT.replace(HEX, OTHER)
    with pytest.raises(ConfigError, match="other platforms"):
        edit.allow(written, "trainer", replace(fresh, platforms=("ab" * 16,)), Wish(), now=NOW, update="add")


COMMENTED = """\
# before the first
[[grant]] # one
name = "trainer-read"
enclave = "trainer"
actions = ["read"]  # inside
paths = [
  "a",  # [[grant]]
]
max_runs = 1
max_bytes = 1
# about the second

[[grant]]
name = "trainer-write"
enclave = "trainer"
actions = ["write"]
paths = ["b"]
max_runs = 1
max_bytes = 1

# about the enclave
[enclave.trainer]
mrenclave = ["%s"]
platforms = "any"
[enclave.trainer.tcb]
profile = "strict"

[enclave.other]
mrenclave = ["%s"]
platforms = "any"
# the end
"""


@pytest.fixture
def commented(folder: Path) -> Path:
    """A file whose grants stand before its enclaves, with comments everywhere."""
    head = TEXT[: TEXT.index("[enclave")]
    (folder / FILE_NAME).write_text(head + COMMENTED % (HEX, OTHER))
    return folder


def test_revoke_takes_one_grant_and_its_lines_only(commented: Path) -> None:
    """The grant's own lines go; comments that stand around them, and everything else, stay."""
    change = edit.revoke(commented, "trainer", "trainer-read")
    assert change.grants == ("trainer-read",)
    after = text(commented)
    for comment in ("# before the first", "# about the second", "# about the enclave", "# the end", "own words"):
        assert comment in after
    assert "# inside" not in after
    assert [grant.name for grant in load(commented).policy.grants] == ["trainer-write"]


def test_revoke_takes_an_enclave_with_all_it_may_do(commented: Path) -> None:
    """Without a grant's name, every grant and the enclave's tables go, and other enclaves stay."""
    change = edit.revoke(commented, "trainer")
    assert change.grants == ("trainer-read", "trainer-write")
    policy = load(commented).policy
    assert policy.grants == ()
    assert [rule.name for rule in policy.enclaves] == ["other"]
    assert "# the end" in text(commented)


def test_revoking_what_is_not_there_is_an_error(commented: Path) -> None:
    """A misspelt name must not look like a revocation that worked."""
    before = text(commented)
    for name, grant in (("trianer", None), ("trainer", "trainer-raed"), ("other", "trainer-read")):
        with pytest.raises(ConfigError):
            edit.revoke(commented, name, grant)
    assert text(commented) == before


def test_allow_and_revoke_undo_each_other(written: Path) -> None:
    """After allow and revoke the file says what it said before, comments included."""
    edit.allow(written, "new", WHO, replace(WHAT, write=("out/*",)), now=NOW)
    edit.revoke(written, "new")
    assert text(written) == TEXT


def test_a_file_that_cannot_be_changed_safely_is_left_to_its_owner(folder: Path) -> None:
    """Policies written inline are read, but not edited by guesswork."""
    inline = TEXT[: TEXT.index("[enclave")].replace(
        "[server]", f'enclave = {{ a = {{ mrenclave = ["{HEX}"], platforms = "any" }} }}\n[server]', 1
    )
    (folder / FILE_NAME).write_text(inline)
    assert load(folder).policy.enclaves
    with pytest.raises(ConfigError):
        edit.revoke(folder, "a")
    with pytest.raises(ConfigError):
        edit.allow(folder, "b", WHO, WHAT, now=NOW)
    assert text(folder) == inline


def test_a_broken_file_is_not_edited(folder: Path) -> None:
    """What is wrong already is reported with its line, before anything is added to it."""
    (folder / FILE_NAME).write_text(TEXT + "unknown = 1\n")
    with pytest.raises(ConfigError, match="unknown"):
        edit.allow(folder, "new", WHO, WHAT, now=NOW)


def test_a_failed_write_leaves_the_former_file(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk the policy in force stays whole, and no temporary file is left."""
    names = sorted(os.listdir(written))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        edit.allow(written, "new", WHO, WHAT, now=NOW)
    assert (text(written), sorted(os.listdir(written))) == (TEXT, names)


def test_the_files_mode_stays(written: Path) -> None:
    """Editing neither opens nor closes the file to others."""
    (written / FILE_NAME).chmod(0o640)
    edit.allow(written, "new", WHO, WHAT, now=NOW)
    assert stat.S_IMODE((written / FILE_NAME).stat().st_mode) == 0o640


def test_edits_at_the_same_time_are_all_kept(folder: Path) -> None:
    """Two edits never start from the same text: each one waits for the other."""
    threads = [
        threading.Thread(target=edit.allow, args=(folder, f"app{number}", WHO, WHAT), kwargs={"now": NOW})
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(grant.name for grant in load(folder).policy.grants) == [f"app{number}-read" for number in range(8)]


def test_a_key_is_made_once_and_privately(folder: Path) -> None:
    """A new key has 32 random bytes in a file of mode 0600, and is granted to nobody by itself."""
    config = edit.add_key(folder, "model")
    path = config.key_file("model")
    assert path is not None
    assert (len(path.read_bytes()), stat.S_IMODE(path.stat().st_mode)) == (32, 0o600)
    assert config.policy.grants == ()
    with pytest.raises(ConfigError, match="exists"):
        edit.add_key(folder, "model")
    for name in ("../x", "Model", "", "a/b"):
        with pytest.raises(ConfigError):
            edit.add_key(folder, name)
    change = edit.allow(folder, "trainer", WHO, Wish(keys=("model",), max_runs="1"), now=NOW)
    assert change.config.policy.grants[0].keys == ("model",)
    assert check(folder, NOW).ok


@given(st.lists(st.text(max_size=12), min_size=1, max_size=3))
def test_globs_arrive_as_they_were_given_or_not_at_all(globs: list[str]) -> None:
    """Whatever a glob contains, it is that glob in the file, or refused; it never becomes something else."""
    grant = {"name": "g", "enclave": "trainer", "actions": ["read"], "paths": globs, "max_runs": 1, "max_bytes": 1}
    try:
        config = read(edit._append(TEXT, ("grant",), grant))
    except ConfigError:
        return
    assert [item.name for item in config.policy.grants] == ["trainer-read", "trainer-key", "g"]
    assert config.policy.grants[2].paths == tuple(globs)
