# SPDX-License-Identifier: Apache-2.0
"""Whom a client does not believe, and what an owner does not allow."""

from __future__ import annotations

import ssl

from clf.wire.encoding import compact_json
from conformance.cases.base import Collected, get, put, scratch
from conformance.client import Client, expect
from conformance.stage import KEY, SMALL, Stage, content, place, published, stranger

CASES = Collected()

UNTRUSTED = ("certificate_untrusted",)


@CASES
def wrong_ca(stage: Stage, client: Client) -> None:
    """A server with a certificate of another CA gets no evidence."""
    where = place(stage.hospital, ca=stage.strict.ca)
    get(client, where, SMALL, timeout=60)[0].refused(*UNTRUSTED, quotes=0)


@CASES
def wrong_host_name(stage: Stage, client: Client) -> None:
    """A certificate of the right CA for another host."""
    with stage.proxy(stage.hospital, hosts=("other.example",)) as proxy:
        get(client, place(stage.hospital, url=proxy.url), SMALL, timeout=60)[0].refused(*UNTRUSTED, quotes=0)


@CASES
def certificate_out_of_date(stage: Stage, client: Client) -> None:
    """A certificate of the right CA that has expired."""
    with stage.proxy(stage.hospital, made_at=1_500_000_000) as proxy:
        get(client, place(stage.hospital, url=proxy.url), SMALL, timeout=60)[0].refused(*UNTRUSTED, quotes=0)


@CASES
def only_tls_1_3(stage: Stage, client: Client) -> None:
    """A server that speaks TLS 1.2 only: an error at once, since trying again is of no use."""
    with stage.proxy(stage.hospital, tls=ssl.TLSVersion.TLSv1_2) as proxy:
        outcome, _ = get(client, place(stage.hospital, url=proxy.url), SMALL, timeout=60)
        outcome.refused("tls_refused", quotes=0)


@CASES
def wrong_identity(stage: Stage, client: Client) -> None:
    """A server that is not the pinned owner gets no evidence."""
    where = place(stage.hospital, identity=stranger())
    get(client, where, SMALL)[0].refused("identity_unknown", quotes=0)


@CASES
def owner_unlisted(stage: Stage, client: Client) -> None:
    """Where the launcher lists the measured owners, an argument only selects one of them."""
    listed, other = stage.hospital, stage.strict
    with scratch() as folder:
        (folder / "ca.crt").write_bytes(listed.ca.read_bytes())
        line = {"name": "a", "url": listed.url, "ca": f"{folder}/ca.crt", "identity": listed.identity, "next": ""}
        (folder / "owners.jsonl").write_bytes(compact_json(line) + b"\n")
        (folder / "clf.toml").write_text(
            '[app]\nname = "conformance"\ncommand = ["true"]\nfiles = []\n\n'
            f'[owner.a]\nurl = "{listed.url}"\nca = "ca.crt"\nidentity = ["{listed.identity}"]\n'
        )
        environment = {"CLF_APP": f"{folder}/clf.toml", "CLF_OWNERS": f"{folder}/owners.jsonl"}
        good = client.run(place(listed), "get", SMALL, folder / "got", environment=environment)
        good.ok(quotes=1)
        bad = client.run(place(other), "get", SMALL, folder / "other", environment=environment)
        bad.refused("owner_unlisted", quotes=0)


@CASES
def nobody_there(stage: Stage, client: Client) -> None:
    """A port where nobody listens: an error after the timeout, not before and not never."""
    with stage.cutting(stage.hospital, seed=0, chance=0, most=1) as proxy:
        url = proxy.url
    get(client, place(stage.hospital, url=url), SMALL, timeout=2)[0].refused("unreachable", quotes=0)


@CASES
def policy_refuses_path(stage: Stage, client: Client) -> None:
    """A file that the policy does not grant."""
    outcome, found = get(client, place(stage.strict), "secret/diagnoses.csv")
    outcome.refused("not_authorised", quotes=1)
    expect(not found, "get: bytes of a file that was refused")


@CASES
def policy_refuses_list(stage: Stage, client: Client) -> None:
    """A listing that the policy does not grant."""
    client.run(place(stage.strict), "list", "/").refused("not_authorised", quotes=1)


@CASES
def policy_refuses_key(stage: Stage, client: Client) -> None:
    """A key that the policy does not grant: nothing on stdout."""
    outcome = client.run(place(stage.strict), "key", KEY).refused("not_authorised", quotes=1)
    expect(not outcome.stdout, "key: something on stdout")


@CASES
def policy_refuses_write(stage: Stage, client: Client) -> None:
    """A result where none may be."""
    put(client, place(stage.strict), "elsewhere/x", b"x").refused("not_authorised", quotes=1)
    expect(published(stage.strict, "elsewhere/x") is None, "it was published")


@CASES
def result_too_large(stage: Stage, client: Client) -> None:
    """More bytes than the owner takes in one result."""
    path = stage.path(client.name, "too-large")
    put(client, place(stage.strict), path, content("too large", 300_000)).refused("too_large", "quota_exceeded")
    expect(published(stage.strict, path) is None, "it was published")


@CASES
def another_measurement(stage: Stage, client: Client) -> None:
    """An enclave that no owner allowed."""
    outcome, _ = get(client, place(stage.hospital), SMALL, quote=stage.quote_of(bytes(32)))
    outcome.refused("not_authorised", quotes=1)


@CASES
def evidence_of_another_request(stage: Stage, client: Client) -> None:
    """A quote with other report data proves nothing."""
    outcome, _ = get(client, place(stage.hospital), SMALL, quote=lambda _data: stage.quote(bytes(64)))
    outcome.refused("evidence_invalid", quotes=1)


@CASES
def no_such_file(stage: Stage, client: Client) -> None:
    """A file that is not there."""
    get(client, place(stage.hospital), "missing.csv")[0].refused("no_such_file", quotes=1)


@CASES
def no_such_key(stage: Stage, client: Client) -> None:
    """A key that is not there."""
    client.run(place(stage.hospital), "key", "missing").refused("not_authorised", "no_such_key", quotes=1)


@CASES
def bad_names(stage: Stage, client: Client) -> None:
    """A name against the grammar is refused before anything is sent."""
    for name in ("../secret", "/absolute", "a//b", "back\\slash", ".clf-staging/x", "line\nbreak", "x" * 300):
        outcome, _ = get(client, place(stage.hospital), name)
        outcome.refused("malformed", quotes=0)
    client.run(place(stage.hospital), "key", "Upper Case").refused("malformed", quotes=0)
    get(client, place(stage.hospital), SMALL)[0].ok(quotes=1)
