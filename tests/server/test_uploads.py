# SPDX-License-Identifier: Apache-2.0
"""What a part that arrives may cost the others of its worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from clf.server.access import Access
from clf.server.config_model import Limits
from clf.server.refusal import Refusal
from clf.server.services import Services
from clf.server.uploads import Uploads
from clf.wire import request as wire_request
from tests.server.test_parsed import row


def test_a_state_that_answers_slowly_holds_up_no_other_request() -> None:
    """What the state is asked about a part is asked in a thread: a database that hangs must not stop the event loop."""
    others_went_on = threading.Event()

    def stored_bytes() -> int:
        assert others_went_on.wait(10)
        return Limits().results_total_bytes

    services = SimpleNamespace(
        config=SimpleNamespace(limits=Limits()), state=SimpleNamespace(stored_bytes=stored_bytes)
    )
    upload = replace(row(1), action="write", path="out", declared_size=10)
    found = Access(row=upload, request=wire_request.parse(upload.request), secret=bytes(32), transfer_key=bytes(32))

    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    async def put() -> None:
        asyncio.get_running_loop().call_later(0.01, others_went_on.set)
        uploads = Uploads(cast(Services, services))
        await uploads.receive(asyncio.to_thread, found, nothing(), offset=0, length=10, nonce=bytes(16))

    with pytest.raises(Refusal) as refused:
        asyncio.run(put())
    assert refused.value.code == "quota_exceeded"
