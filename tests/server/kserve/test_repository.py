"""Index, load and unload: aliases as models that come and go, with the journal telling who did it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2

from factories import pictures
from kserving import shots_of, stub, triton_of, triton_refused
from lensmount.errors import InvalidInputError, UnimplementedError
from lensmount.results import AdapterEventKind
from lensmount_server.kserve import repository
from serving import CLOSE, Kit, Served, refused, serving, stored

SHOT = pictures(1, seed=12)[0]


async def index(client: Any) -> set[tuple[str, str, str]]:
    return {(each.name, each.version, each.state) for each in (await client.get_model_repository_index()).models}


async def test_the_index_tells_all_aliases_and_what_is_unloaded(live: Served, kit: Kit, client: Any) -> None:
    await live.client.register(kit.defect[1].folder, alias="canary")
    assert await index(client) == {
        ("defect", "1", "READY"),
        ("defect", "2", "READY"),
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


async def test_of_very_many_versions_the_index_tells_those_that_matter(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(kit, tmp_path / "data") as live:
        await live.client.register(kit.defect[0].folder, alias="live")
        for version in kit.defect[1:]:
            await live.client.register(version.folder)
    monkeypatch.setattr(repository, "MAX_LISTED", 2)
    async with serving(kit, tmp_path / "data") as live, triton_of(live) as client:
        assert await index(client) == {("defect", "1", "READY")}
        await client.infer("defect", shots_of(SHOT), model_version="3")
        assert await index(client) == {("defect", "1", "READY"), ("defect", "3", "READY")}
        monkeypatch.setattr(repository, "MAX_LISTED", 3)
        assert await index(client) == {("defect", number, "READY") for number in "123"}


async def test_a_damaged_adapter_is_unavailable_with_the_reason(kit: Kit, tmp_path: Path) -> None:
    async with serving(kit, tmp_path / "data") as live:
        await live.client.register(kit.defect[0].folder, alias="live")
        await live.client.register(kit.defect[1].folder, alias="canary")
    weights = stored(tmp_path / "data", kit.defect[1].adapter.content_hash) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    async with serving(kit, tmp_path / "data") as live, triton_of(live) as client:
        assert await client.is_model_ready("defect@canary")
        for _ in range(2):
            await triton_refused(client.infer("defect@canary", shots_of(SHOT)), "UNAVAILABLE")
            assert not await client.is_model_ready("defect@canary")
        await triton_refused(client.load_model("defect@canary"), "FAILED_PRECONDITION")
        assert await index(client) == {
            ("defect", "1", "READY"),
            ("defect", "2", "UNAVAILABLE"),
            ("defect@canary", "2", "UNAVAILABLE"),
        }
        listed = (await client.get_model_repository_index()).models
        assert [bool(each.reason) for each in listed] == [False, True, True]
        assert list((await client.get_model_metadata("defect")).versions) == ["1"]
        statistics = (await client.get_inference_statistics()).model_stats
        assert [(each.name, each.version) for each in statistics if not each.inference_stats.fail.count] == [
            ("defect", "1")
        ]
        result = await client.infer("defect", shots_of(SHOT))
        assert result.as_numpy("scores")[0] == pytest.approx(kit.defect[0].scores(SHOT), abs=CLOSE)


def policy(number: object) -> str:
    """How tritonclient names a version in a load."""
    return json.dumps({"version_policy": {"specific": {"versions": [number]}}})


async def load(live: Served, model: str, version: int | str) -> None:
    """A load with our parameter, which tritonclient does not let through."""
    request = service_pb2.RepositoryModelLoadRequest(model_name=model)
    kind = "int64_param" if isinstance(version, int) else "string_param"
    setattr(request.parameters["version"], kind, version)
    await stub(live).RepositoryModelLoad(request)


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


async def test_a_load_with_a_version_promotes(live: Served, kit: Kit, client: Any) -> None:
    for package in kit.defect[1:]:
        await live.client.register(package.folder)
    for number, loaded in ((2, load(live, "defect", 2)), (3, load(live, "defect", "3"))):
        await loaded
        assert (await client.infer("defect", shots_of(SHOT))).get_response().model_version == str(number)
    for given in (1, "2"):
        await client.load_model("defect", config=policy(given))
        result = await client.infer("defect", shots_of(SHOT))
        assert result.get_response().model_version == str(given)
        assert result.as_numpy("scores")[0] == pytest.approx(kit.defect[int(given) - 1].scores(SHOT), abs=CLOSE)
    await client.load_model("defect@fresh", config=policy(1))
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
    events = [event async for event in live.client.events("defect", "live")]
    told = [(event.kind, event.actor) for event in events][:2]
    assert told == [(AdapterEventKind.ALIAS_SET, "grace"), (AdapterEventKind.ALIAS_DELETED, "ada")]
    assert all("127.0.0.1" in event.origin for event in events if event.actor)


@pytest.mark.parametrize(("model", "number"), [("weather", 0), ("weather", 1), ("defect", 9), ("defect@new", 0)])
async def test_what_is_not_there_can_not_be_loaded(client: Any, model: str, number: int) -> None:
    await triton_refused(client.load_model(model, config=policy(number) if number else None), "NOT_FOUND")
    assert await client.is_model_ready("defect")


@pytest.mark.parametrize("text", ["x", "-1", "0", "", "1.5"])
async def test_a_version_that_is_none(live: Served, client: Any, text: str) -> None:
    request = service_pb2.RepositoryModelLoadRequest(model_name="defect")
    request.parameters["version"].string_param = text
    error = await refused(stub(live).RepositoryModelLoad(request))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "parameters.version")
    await triton_refused(client.load_model("defect", config=policy(text)), "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "config", ["{}", "", "no json", "[" * 100_000, '{"max_batch_size": 1}', "[1]", "null", policy([1])]
)
async def test_a_config_may_name_a_version_alone(client: Any, config: str) -> None:
    await triton_refused(client.load_model("defect", config=config), "INVALID_ARGUMENT")


async def test_an_alias_that_is_no_name(client: Any) -> None:
    await triton_refused(client.load_model("defect@a b", config=policy(1)), "INVALID_ARGUMENT")
    await triton_refused(client.load_model("defect@", config=policy(1)), "NOT_FOUND")


async def test_what_can_not_be_given(live: Served, client: Any) -> None:
    with_files = client.load_model("defect", config=policy(1), files={"file:1/model.onnx": b"x"})
    await triton_refused(with_files, "UNIMPLEMENTED")
    request = service_pb2.RepositoryModelLoadRequest(repository_name="x", model_name="defect")
    assert isinstance(await refused(stub(live).RepositoryModelLoad(request)), UnimplementedError)
    request = service_pb2.RepositoryModelLoadRequest(model_name="defect")
    request.parameters["version"].bool_param = True
    assert isinstance(await refused(stub(live).RepositoryModelLoad(request)), InvalidInputError)
