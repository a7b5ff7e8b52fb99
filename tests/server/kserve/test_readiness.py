"""Ready is what can answer now: while the engine can not, nothing is ready, and the server is alive all the same."""

from __future__ import annotations

from typing import Any

import pytest

from lensmount_server.engine.reference import ReferenceExecutor


async def states(client: Any) -> set[str]:
    return {each.state for each in (await client.get_model_repository_index()).models}


async def test_nothing_is_ready_while_the_engine_can_not_answer(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as away:
        away.setattr(ReferenceExecutor, "answers", False)
        assert await client.is_server_live()
        assert not await client.is_server_ready()
        assert not await client.is_model_ready("defect")
        assert not await client.is_model_ready("defect", "1")
        assert await states(client) == {"UNAVAILABLE"}
        listed = (await client.get_model_repository_index()).models
        assert {each.reason for each in listed} == {"the plain one, for comparison"}
    assert await client.is_server_ready()
    assert await client.is_model_ready("defect")
    assert await states(client) == {"READY"}
