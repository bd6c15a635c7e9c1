# SPDX-License-Identifier: Apache-2.0
"""`clf_server.toml` is used as a whole or refused with field, line and remedy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf import limits
from clf.errors import ConfigError
from clf.server.config import FILE_NAME, Address, Collateral, load, parse_config
from clf.server.config_model import Limits
from clf.server.template import render
from clf.verify.policy import STANDARD, Grant
from tests.server.owner import HEX, TEXT, changed, read, refusal


def line_of(text: str, piece: str) -> int:
    """The line where a piece of the text stands."""
    return text[: text.index(piece)].count("\n") + 1


def test_a_whole_file_is_read() -> None:
    """Every part of the file arrives in the configuration and the policy, paths absolute, words as values."""
    config = read()
    assert config.listen == Address("0.0.0.0", 4433)  # noqa: S104 - compared, not bound
    assert (config.data, config.tls_key) == (Path("/owner/data"), Path("/owner/keys/tls/server.key"))
    assert (config.trust, config.simulation_root, config.collateral) == ("intel", None, Collateral("pcs"))
    assert (config.limits.transfer_idle_seconds, config.limits.part_bytes) == (60, limits.PART_BYTES)
    rule = config.policy.enclave("trainer")
    assert rule is not None
    assert rule.sgx is not None
    assert (rule.sgx.mrenclave, rule.platforms, rule.tcb) == ((bytes.fromhex(HEX),), "any", STANDARD)
    assert config.policy.grant("trainer-read") == Grant(
        "trainer-read", "trainer", ("read",), ("patients/*.csv",), max_runs=10, max_bytes=None, until=1_896_048_000
    )
    assert config.key_file("model") == Path("/owner/keys/named/model.key")
    assert config.policy.min_tcb_evaluation_number == 17


def test_the_policy_digest_is_that_of_the_files_bytes() -> None:
    """Audit entries name the SHA-256 of exactly the bytes that were in force."""
    config = read()
    assert config.digest == config.policy.digest == hashlib.sha256(TEXT.encode()).hexdigest()
    assert read(TEXT + "# a word\n").digest != config.digest


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('admin = "127.0.0.1:9433"', 'admin = "0.0.0.0:9433"', "server.admin"),
        ('admin = "127.0.0.1:9433"', 'admin = "10.0.0.1:9433"', "server.admin"),
        ('admin = "127.0.0.1:9433"', 'admin = "127.0.0.1"', "server.admin"),
        ('listen = "0.0.0.0:4433"', 'listen = "0.0.0.0:65536"', "server.listen"),
        ('listen = "0.0.0.0:4433"', 'listen = "::1:4433"', "server.listen"),
        ('listen = "0.0.0.0:4433"', "listen = 4433", "server.listen"),
        ('listen = "0.0.0.0:4433"', 'listen = "localhost:4433"', "server.listen"),
        ('listen = "0.0.0.0:4433"', 'listen = "hospital.example:4433"', "server.listen"),
        ('listen = "0.0.0.0:4433"', 'listen = "[fe80::1%eth0]:4433"', "server.listen"),
        ('listen = "0.0.0.0:4433"', 'listen = "127.0.0.1:9433"', "server.admin"),
        ('results = "results"', 'results = "data/results"', "server.results"),
        ('state = "state"', 'state = "data"', "server.state"),
        ('keys = "keys"', 'keys = "."', "server.keys"),
        ('data = "data"', 'data = "/"', "server.data"),
        ('data = "data"', 'data = "keys/../state/.."', "server.data"),
        ("transfer_idle_seconds = 60", "transfer_idle_seconds = 0", "server.limits.transfer_idle_seconds"),
        ("transfer_idle_seconds = 60", "transfer_idle_seconds = 90000", "server.limits.transfer_idle_seconds"),
        ("transfer_idle_seconds = 60", "transfer_idle = 60", "server.limits.transfer_idle"),
        ("transfer_idle_seconds = 60", "part_bytes = 67108865", "server.limits.part_bytes"),
        ('trust = "intel"', 'trust = "any"', "attestation.trust"),
        ('trust = "intel"', 'trust = "simulation"', "attestation.simulation_root"),
        ('trust = "intel"', 'trust = "intel"\nsimulation_root = "root.pem"', "attestation.simulation_root"),
        ("{ pcs = true }", "{}", "attestation.collateral"),
        ("{ pcs = true }", '{ pcs = true, folder = "x" }', "attestation.collateral"),
        ("{ pcs = true }", "{ pcs = false }", "attestation.collateral.pcs"),
        ("{ pcs = true }", '{ pccs = "ftp://x" }', "attestation.collateral.pccs"),
        ("{ pcs = true }", '{ pccs = "https://user@x" }', "attestation.collateral.pccs"),
        ("{ pcs = true }", '{ url = "https://x" }', "attestation.collateral.url"),
        ("{ pcs = true }", '{ folder = "x", update = "early" }', "attestation.collateral.update"),
        ("{ pcs = true }", '{ pcs = true, update = "late" }', "attestation.collateral.update"),
        ("max_age_hours = 24", "max_age_hours = 0", "attestation.max_age_hours"),
        ("max_age_hours = 24\n", "", "attestation.max_age_hours"),
        ("min_tcb_evaluation_number = 17\n", "", "attestation.min_tcb_evaluation_number"),
        ('platforms = "any"', "platforms = []", "enclave.trainer.platforms"),
        ('platforms = "any"', 'platforms = "all"', "enclave.trainer.platforms"),
        ('platforms = "any"\n', "", "enclave.trainer.platforms"),
        ('tcb = "standard"', 'tcb = "none"', "enclave.trainer.tcb"),
        ('tcb = "standard"', "tcb = {}", "enclave.trainer.tcb.profile"),
        ('tcb = "standard"', 'tcb = { profile = "standard", smtt = true }', "enclave.trainer.tcb.smtt"),
        ('tcb = "standard"', 'tcb = { profile = "standard", statuses = [] }', "enclave.trainer.tcb.statuses"),
        ('tcb = "standard"', f'mrsigner = ["{HEX}"]', "enclave.trainer.mrsigner"),
        ('tcb = "standard"', f'rtmr0 = ["{HEX}"]', "enclave.trainer.rtmr0"),
        ('tcb = "standard"', 'mrenclav = "x"', "enclave.trainer.mrenclav"),
        ('file = "keys/named/model.key"', 'file = "keys/identity.pem"', "key.model.file"),
        ('file = "keys/named/model.key"', 'file = "keys/named/../transfer.json"', "key.model.file"),
        ('file = "keys/named/model.key"', 'file = "data/model.key"', "key.model.file"),
        ('file = "keys/named/model.key"', 'secret = "58a7129dc07ba462"', "key.model.secret"),
        ('name = "trainer-key"', 'name = "trainer-read"', "grant[1].name"),
        ('name = "trainer-key"', 'name = "a b"', "grant[1].name"),
        ('actions = ["read"]', 'actions = ["read", "raed"]', "grant[0].actions"),
        ('actions = ["read"]', "actions = []", "grant[0].actions"),
        ('actions = ["key"]', 'actions = ["list"]', "grant[1].paths"),
        ('keys = ["model"]', 'keys = ["modle"]', "grant[1].keys[0]"),
        ('paths = ["patients/*.csv"]', 'paths = ["../secret"]', "grant[0].paths"),
        ('paths = ["patients/*.csv"]\n', "", "grant[0].paths"),
        ("max_runs = 10\n", "", "grant[0].max_runs"),
        ("max_runs = 10", 'max_runs = "many"', "grant[0].max_runs"),
        ("max_runs = 10", "max_runs = true", "grant[0].max_runs"),
        ("max_runs = 10", "max_runs = 1.0", "grant[0].max_runs"),
        ("max_runs = 10", "max_runs = -1", "grant[0].max_runs"),
        ('max_bytes = "unlimited"\n', "", "grant[0].max_bytes"),
        ("until = 2030-01-31T00:00:00Z", "until = 2030-01-31T00:00:00", "grant[0].until"),
        ("until = 2030-01-31T00:00:00Z", "until = 2030-01-31", "grant[0].until"),
    ],
)
def test_a_mistake_is_named_with_field_line_and_remedy(old: str, new: str, field: str) -> None:
    """Whatever is wrong, missing or unknown is an error that says where; nothing is converted or assumed."""
    text = changed(old, new)
    error = refusal(text)
    assert error.field == field
    assert 0 < error.line <= text.count("\n")
    assert f"line {error.line}" in error.message
    if new and "\n" not in new and error.field.split(".")[-1].split("[")[0] in new:
        assert error.line == line_of(TEXT, old)


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("[server.limits]", "[server.limit]", "'limits'"),
        ("mrenclave =", "mrencalve =", "'mrenclave'"),
        ("max_age_hours", "max_age_hour", "'max_age_hours'"),
        ('tcb = "standard"', 'tcb = "standrad"', "'standard'"),
        ('actions = ["key"]\n', 'actions = ["key"]\nmax_run = 3\n', "'max_runs'"),
    ],
)
def test_an_unknown_word_gets_a_suggestion(old: str, new: str, hint: str) -> None:
    """A misspelt key or word is an error that names the one probably meant."""
    error = refusal(changed(old, new))
    assert error.remedy == f"did you mean {hint}?"


def test_a_grant_for_an_unknown_enclave_is_refused() -> None:
    """A grant whose enclave is misspelt must not silently grant nothing, or somebody else, something."""
    text = TEXT.replace('enclave = "trainer"\nactions = ["key"]', 'enclave = "trianer"\nactions = ["key"]')
    error = refusal(text)
    assert (error.field, error.line) == ("grant[1].enclave", line_of(text, 'enclave = "trianer"'))


@pytest.mark.parametrize("text", ["[server", "a = ", "a = 1\na = 2", "x = [1,", '"', "\x00"])
def test_what_is_not_toml_is_refused_with_its_line(text: str) -> None:
    """A syntax error is a configuration error with a line, never an exception of the TOML reader."""
    assert refusal(TEXT + text).line >= TEXT.count("\n")


def test_flaw_03_a_missing_or_long_value_never_becomes_another_one() -> None:
    """Original CLF, flaw 3: a missing secret took MRENCLAVE's value, and an over-long one overran its neighbours.

    A key is a file of its own here; its absence is an error, and no length of any value changes another.
    """
    error = refusal(changed('file = "keys/named/model.key"', ""))
    assert error.field == "key.model.file"
    long = read(changed('file = "keys/named/model.key"', f'file = "keys/named/{"f" * 5000}"'))
    plain = read()
    assert (long.listen, long.policy.enclaves, long.policy.grants) == (
        plain.listen,
        plain.policy.enclaves,
        plain.policy.grants,
    )


@pytest.mark.parametrize(
    "value", ["zz" + HEX[2:], HEX[:-1], HEX + "00", "0x" + HEX[2:], HEX[:-1] + " ", HEX[:-1] + "٣", ""]
)
def test_flaw_05_only_exact_hex_is_a_measurement(value: str) -> None:
    """Original CLF, flaw 5: a bad hex digit repeated the byte before. Here anything but 64 hex digits is refused."""
    error = refusal(changed(HEX, value))
    assert error.field == "enclave.trainer.mrenclave[0]"


def test_flaw_05_a_measurement_may_begin_with_a_zero_byte() -> None:
    """Original CLF, flaw 5: a measurement that began with 0x00 counted as not given. Here it is one like any other."""
    for value in (HEX, "00" * 32):
        rule = read(changed(HEX, value)).policy.enclave("trainer")
        assert rule is not None
        assert rule.sgx is not None
        assert rule.sgx.mrenclave == (bytes.fromhex(value),)


@pytest.mark.parametrize(
    "value", ['mrenclave = [""]', "mrenclave = []", 'mrenclave = ["any"]', 'mrenclave = ["*"]', ""]
)
def test_flaw_11_an_enclave_without_identity_is_refused(value: str) -> None:
    """Original CLF, flaw 11: an empty measurement meant "any". Here it is an error with a remedy."""
    error = refusal(changed(f'mrenclave = ["{HEX}"]', value))
    assert error.field.startswith("enclave.trainer")
    assert error.remedy


@pytest.mark.parametrize("drop", ["product_id = 0", "min_svn = 0", "delegates_to_signer = true"])
def test_flaw_11_a_signer_needs_product_version_and_consent(drop: str) -> None:
    """Original CLF, flaw 11: the shipped file checked MRSIGNER only. Here that takes three more statements."""
    lines = [f'mrsigner = ["{HEX}"]', "product_id = 0", "min_svn = 0", "delegates_to_signer = true"]
    whole = read(changed(f'mrenclave = ["{HEX}"]', "\n".join(lines))).policy.enclave("trainer")
    assert whole is not None
    assert whole.sgx is not None
    assert whole.sgx.delegates_to_signer
    lines.remove(drop)
    error = refusal(changed(f'mrenclave = ["{HEX}"]', "\n".join(lines)))
    assert error.field == f"enclave.trainer.{drop.split(' ', maxsplit=1)[0]}"


def test_a_trust_domain_needs_all_of_its_registers() -> None:
    """For TDX mr_td alone says nothing of what runs: every register must be written."""
    value = "ab" * 48
    names = ["mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3"]
    lines = [*(f'{name} = ["{value}"]' for name in names), 'mr_seam = "any"']
    rule = read(changed(f'mrenclave = ["{HEX}"]', "\n".join(lines))).policy.enclave("trainer")
    assert rule is not None
    assert rule.tee == "tdx"
    for name in (*names, "mr_seam"):
        fewer = [line for line in lines if not line.startswith(name)]
        assert refusal(changed(f'mrenclave = ["{HEX}"]', "\n".join(fewer))).field == f"enclave.trainer.{name}"


def test_folders_are_compared_after_symbolic_links(tmp_path: Path) -> None:
    """Two names for one folder are one folder: data must not be the keys by another name."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "keys")
    with pytest.raises(ConfigError, match="overlaps with data"):
        parse_config(TEXT.encode(), tmp_path)


@pytest.mark.parametrize("name", list(Limits.model_fields))
def test_each_limit_has_its_default_in_one_place(name: str) -> None:
    """What an owner may set has the name and default of clf/limits.py, unit included."""
    default = Limits.model_fields[name].default
    assert default == getattr(limits, name.upper())
    assert name.endswith(("_count", "_bytes", "_seconds", "_second", "_per_address", "_per_enclave"))
    assert getattr(read(changed("transfer_idle_seconds = 60", f"{name} = {default}")).limits, name) == default


@given(st.text(max_size=40))
def test_what_was_given_to_init_cannot_add_lines(text: str) -> None:
    """A URL or folder with quotes or newlines ends up as one value or as an error, never as other settings."""
    made = render(
        trust="intel", collateral=Collateral("folder", text), listen="[::1]:1", admin="[::1]:2", simulation_root=None
    )
    try:
        config = read(made)
    except ConfigError:
        return
    assert config.collateral == Collateral("folder", str(Path("/owner") / text))
    assert config.policy.grants == ()


@given(st.integers(0, len(TEXT) - 1), st.sampled_from(["", "x", '"', "[", "\n", "=", "{"]))
def test_no_damage_to_the_file_escapes_as_another_exception(place: int, piece: str) -> None:
    """However a file is damaged, it is read or refused with a ConfigError."""
    try:
        read(TEXT[:place] + piece + TEXT[place + 1 :])
    except ConfigError as error:
        assert error.message  # noqa: PT017 - either outcome is right


def test_a_folder_without_a_file_says_what_to_do(tmp_path: Path) -> None:
    """Pointing at the wrong folder names the command that makes a right one."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "clf server init" in caught.value.remedy
    (tmp_path / FILE_NAME).write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"#" * (limits.CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="longer than"):
        load(tmp_path)
