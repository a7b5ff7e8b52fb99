"""Index, load and unload: aliases as models that come and go, with the journal telling who did it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2

from factories import pictures
from kserving import shots_of, stub, triton_refused
from lensmount.errors import InvalidInputError, UnimplementedError
from lensmount.results import AdapterEventKind
from serving import CLOSE, Kit, Served, refused, stored

SHOT = pictures(1, seed=12)[0]


async def index(client: Any) -> set[tuple[str, str, str]]:
    return {(each.name, each.version, each.state) for each in (await client.get_model_repository_index()).models}


async def test_the_index_tells_all_aliases_and_what_is_unloaded(live: Served, kit: Kit, client: Any) -> None:
    await live.client.register(kit.defect[1].folder, alias="canary")
    assert await index(client) == {
        ("defect", "1", "READY"),
        ("defect@canary", "2", "READY"),
        ("grade", "1", "READY"),
        ("surface", "1", "READY"),
    }
    await client.unload_model("defect")
    await client.unload_model("defect@canary")
    listed = {each.name: each for each in (await client.get_model_repository_index()).models}
    assert (listed["defect"].version, listed["defect"].state) == ("2", "UNAVAILABLE")
    assert "live" in listed["defect"].reason
    ready = await stub(live).RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True))
    assert [each.name for each in ready.models] == ["grade", "surface"]


async def test_a_damaged_adapter_is_unavailable_with_the_reason(live: Served, kit: Kit, client: Any) -> None:
    await live.client.register(kit.defect[1].folder)
    package = stored(live.data_dir, kit.defect[1].adapter.content_hash)
    weights = package / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    for number in range(2):  # neither the first nor a later one ends in a defect
        await triton_refused(client.infer("defect", shots_of(SHOT), model_version="2"), "UNAVAILABLE")
        assert not await client.is_model_ready("defect", "2"), number
    await triton_refused(client.load_model("defect@canary", parameters=version(2)), "FAILED_PRECONDITION")
    assert await client.is_model_ready("defect")


def version(number: int | str) -> dict[str, Any]:
    return {"version": number}


async def test_unload_and_load_again(live: Served, kit: Kit, client: Any) -> None:
    await client.load_model("defect")
    assert await client.is_model_ready("defect")
    await client.unload_model("defect")
    assert not await client.is_model_ready("defect")
    await triton_refused(client.infer("defect", shots_of(SHOT)), "NOT_FOUND")
    await triton_refused(client.unload_model("defect"), "NOT_FOUND")
    await client.load_model("defect")
    assert await client.is_model_ready("defect")
    result = await client.infer("defect", shots_of(SHOT))
    assert result.as_numpy("scores")[0] == pytest.approx(kit.defect[0].scores(SHOT), abs=CLOSE)


@pytest.mark.parametrize("number", [2, "2"])
async def test_a_load_with_a_version_promotes(live: Served, kit: Kit, client: Any, number: int | str) -> None:
    await live.client.register(kit.defect[1].folder)
    await client.load_model("defect", parameters=version(number))
    result = await client.infer("defect", shots_of(SHOT))
    assert result.get_response().model_version == "2"
    assert result.as_numpy("scores")[0] == pytest.approx(kit.defect[1].scores(SHOT), abs=CLOSE)
    await client.load_model("defect@fresh", parameters=version(1))
    assert (await client.infer("defect@fresh", shots_of(SHOT))).get_response().model_version == "1"


async def test_a_load_goes_back_to_what_was_last_live(live: Served, kit: Kit, client: Any) -> None:
    await live.client.register(kit.defect[1].folder, alias="live")
    await client.unload_model("defect")
    await client.load_model("defect")
    assert (await client.infer("defect", shots_of(SHOT))).get_response().model_version == "2"


async def test_the_journal_tells_who(live: Served, client: Any) -> None:
    who = triton_aio.InferenceServerClient(live.address)
    await who.unload_model("defect", headers={"lensmount-actor": "ada"})
    await who.load_model("defect", headers={"lensmount-actor": "grace"})
    await who.close()
    events = [event async for event in _events(live)]
    told = [(event.kind, event.actor) for event in events if event.actor]
    assert told == [(AdapterEventKind.ALIAS_SET, "grace"), (AdapterEventKind.ALIAS_DELETED, "ada")]
    assert all("127.0.0.1" in event.origin for event in events if event.actor)


async def _events(live: Served) -> Any:
    for event in await live.client.events("defect", "live"):
        yield event


@pytest.mark.parametrize(
    ("model", "given"), [("weather", {}), ("weather", version(1)), ("defect", version(9)), ("defect@new", {})]
)
async def test_what_is_not_there_can_not_be_loaded(client: Any, model: str, given: dict[str, Any]) -> None:
    await triton_refused(client.load_model(model, parameters=given or None), "NOT_FOUND")
    assert await client.is_model_ready("defect")


@pytest.mark.parametrize("number", ["x", "-1", "0", "", "1.5"])
async def test_a_version_that_is_none(client: Any, number: str) -> None:
    sentence = await triton_refused(client.load_model("defect", parameters=version(number)), "INVALID_ARGUMENT")
    assert sentence.startswith("parameters.version: not a version")


async def test_an_alias_that_is_no_name(client: Any) -> None:
    await triton_refused(client.load_model("defect@a b", parameters=version(1)), "INVALID_ARGUMENT")
    await triton_refused(client.load_model("defect@", parameters=version(1)), "INVALID_ARGUMENT")


async def test_what_can_not_be_overridden(live: Served, client: Any) -> None:
    await triton_refused(client.load_model("defect", config="{}"), "UNIMPLEMENTED")
    request = service_pb2.RepositoryModelLoadRequest(repository_name="x", model_name="defect")
    assert isinstance(await refused(stub(live).RepositoryModelLoad(request)), UnimplementedError)
    request = service_pb2.RepositoryModelLoadRequest(model_name="defect")
    request.parameters["version"].bool_param = True
    error = await refused(stub(live).RepositoryModelLoad(request))
    assert isinstance(error, InvalidInputError)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
