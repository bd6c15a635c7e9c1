# SPDX-License-Identifier: Apache-2.0
"""Three servers of one owner over one PostgreSQL and one S3 bucket: nothing is shared on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e.replicas import Places, Replicas, SharedBucket
from tests.e2e.test_replicas import (  # noqa: F401 - the same fixtures, and the same tests
    database,
    replicas,
    test_a_server_is_killed_under_load,
    test_any_server_serves_any_step,
)
from tests.object_store import object_store

pytestmark = pytest.mark.timeout(600)  # as in test_replicas


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """A real S3 server."""
    with object_store(tmp_path_factory.mktemp("s3") / "server") as store:
        yield partial(SharedBucket, store)


def test_nothing_unfinished_is_left(replicas: Replicas) -> None:  # noqa: F811 - pytest's way to ask for a fixture
    """After all that was killed above: no upload, and nothing staged for a result that is there.

    Another test process may have run what is above; then there is this result only.
    """
    assert isinstance(replicas.places, SharedBucket)
    store = replicas.places.store
    with replicas.connect() as owner, owner.create("results/last", inputs=()) as result:
        result.write(b"whole")
    assert store.uploads() == []
    found = store.objects("shared/results/")
    assert found["results/last"] == b"whole"
    assert result.receipt is not None
    assert not [key for key in found if result.receipt.id in key]
