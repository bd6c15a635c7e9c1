# SPDX-License-Identifier: Apache-2.0
"""What several servers of one owner must agree on before any of them serves: keys, and the policy in force.

Keys and clf_server.toml are files that the owner brings to each server. The database that they share knows no key and
no policy, only which ones are meant: a server that has others would refuse what its peers granted, or grant what they
refuse. So one that lacks a key in use does not start, and one whose policy is another refuses to serve until
`clf server reload` makes them the same again, in the one direction or the other.
"""

from __future__ import annotations

from clf.errors import ConfigError
from clf.server.config import ServerConfig
from clf.server.keys import load_private_key
from clf.server.keys_live import LiveKeys
from clf.server.state import StateStore
from clf.wire.keys import thumbprint


def agree_on_keys(config: ServerConfig, keys: LiveKeys, state: StateStore) -> None:
    """Note the keys in use, or check that this server has those that others noted. Raises ConfigError.

    A server may have newer ones: after a rotation it still has the former, and from now on the newer are in use.
    """
    audit = thumbprint(load_private_key(config.audit_key_file, "audit key").public_key())
    challenge, transfer = keys.challenge(), keys.transfer()
    own = {
        "identity": keys.identity().thumbprint,
        "audit": audit,
        "challenge": challenge.current,
        "transfer": transfer.current,
    }
    known = {
        "identity": set(keys.identities()),
        "audit": {audit},
        "challenge": set(challenge.keys),
        "transfer": set(transfer.keys),
    }
    while True:
        agreed = state.key_ids()
        for name, key_id in agreed.items():
            if key_id not in known.get(name, ()):
                raise ConfigError(
                    f"keys: the {name} key {key_id}, which the servers of this state use, is not in {config.keys}",
                    field="keys",
                    code="keys_differ",
                    remedy="copy the keys folder of a server that serves; another owner needs another database",
                )
        if agreed == own or state.set_key_ids(own, before=agreed):
            return


def agree_on_policy(config: ServerConfig, state: StateStore, now: float) -> bool:
    """Whether this server's policy is the one in force; the first server's is."""
    state.set_policy_digest(config.policy_digest, now, first=True)
    return state.policy_digest() == config.policy_digest
