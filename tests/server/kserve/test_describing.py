"""What the server and its models say of themselves, to the stock client."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

import lensmount
from factories import pictures
from kserving import blocking, shots_of, stub, triton_refused
from lensmount.errors import UnimplementedError
from serving import Kit, Served, refused

SHOT = pictures(1, seed=12)[0]


async def test_the_server(client: Any) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    told = await client.get_server_metadata()
    assert (told.name, told.version) == ("lensmount", lensmount.__version__)
    assert {"statistics", "system_shared_memory", "classification", "model_repository"} <= set(told.extensions)
    assert not {"cuda_shared_memory", "trace", "logging", "sequence"} & set(told.extensions)


async def test_which_models_are_ready(live: Served, kit: Kit, client: Any) -> None:
    await live.client.register(kit.defect[1].folder)
    ready = {
        ("defect", ""): True,
        ("defect", "1"): True,
        ("defect", "2"): True,
        ("defect", "3"): False,
        ("defect", "2147483648"): False,
        ("defect", "0"): False,
        ("defect", "99999999999"): False,
        ("defect", "01"): True,
        ("defect@", ""): False,
        ("defect/image", ""): False,
        ("x" * 200, ""): False,
        ("defect@live", ""): True,
        ("defect@canary", ""): False,
        ("weather", ""): False,
    }
    found = {model: await client.is_model_ready(*model) for model in ready}
    assert found == ready


@pytest.mark.parametrize("version", ["x", "-1", "1.5", " 1", "1 ", "+1", "٣", "9" * 19])
async def test_a_version_is_a_number(client: Any, version: str) -> None:
    sentence = await triton_refused(client.is_model_ready("defect", version), "INVALID_ARGUMENT")
    assert sentence.startswith("model_version: not a version")


async def test_zeros_before_a_version(client: Any) -> None:
    assert list((await client.get_model_metadata("defect", "01")).versions) == ["1"]
    assert list((await client.get_model_config("defect", "001")).config.version_policy.specific.versions) == [1]
    result = await client.infer("defect", shots_of(SHOT), model_version="01")
    assert result.get_response().model_version == "1"


async def test_a_model(kit: Kit, client: Any) -> None:
    told = await client.get_model_metadata("defect")
    size = kit.backbone.preprocessing
    labels = len(kit.defect[0].adapter.manifest.labels)
    assert (told.name, list(told.versions), told.platform) == ("defect", ["1"], "lensmount")
    assert [(each.name, each.datatype, list(each.shape)) for each in told.inputs] == [
        ("picture", "UINT8", [-1, -1, -1, 3]),
        ("encoded", "BYTES", [-1, 1]),
        ("pixel_values", "FP32", [-1, 3, size.height, size.width]),
    ]
    assert [(each.name, each.datatype, list(each.shape)) for each in told.outputs] == [
        ("scores", "FP32", [-1, labels]),
        ("labels", "BYTES", [-1, 1]),
    ]


async def test_its_config(client: Any, kit: Kit) -> None:
    config = (await client.get_model_config("defect")).config
    assert (config.name, config.max_batch_size) == ("defect", 256)
    assert [(each.name, each.optional) for each in config.input] == [
        ("picture", True),
        ("encoded", True),
        ("pixel_values", True),
    ]
    assert not config.response_cache.enable
    assert config.HasField("dynamic_batching")
    assert config.parameters["content_hash"].string_value == kit.defect[0].adapter.content_hash
    assert list(config.version_policy.specific.versions) == [1]


@pytest.mark.parametrize("form", ["picture", "encoded", "pixel_values"])
async def test_a_model_with_one_of_its_inputs(client: Any, form: str) -> None:
    name = f"defect/{form}"
    config = (await client.get_model_config(name)).config
    assert (config.name, [(each.name, each.optional) for each in config.input]) == (name, [(form, False)])
    assert [each.name for each in (await client.get_model_metadata(name)).inputs] == [form]
    assert await client.is_model_ready(name)
    assert [each.name for each in (await client.get_inference_statistics(name)).model_stats] == [name]
    await triton_refused(client.get_model_config("defect/image"), "NOT_FOUND")


async def test_another_version_and_another_alias_describe_themselves(live: Served, kit: Kit, client: Any) -> None:
    await live.client.register(kit.defect[1].folder, alias="canary")
    for model, version in (("defect@canary", ""), ("defect", "2")):
        config = (await client.get_model_config(model, version)).config
        assert config.name == model
        assert config.parameters["content_hash"].string_value == kit.defect[1].adapter.content_hash
        assert config.parameters["version"].string_value == "2"
    assert list((await client.get_model_metadata("defect", "2")).versions) == ["2"]
    assert list((await client.get_model_config("defect", "2")).config.version_policy.specific.versions) == [2]


@pytest.mark.parametrize("model", ["defect", "defect@canary", "defect/picture"])
async def test_a_model_has_all_versions_of_its_task(live: Served, kit: Kit, client: Any, model: str) -> None:
    for version, alias in zip(kit.defect[1:], ("canary", ""), strict=True):
        await live.client.register(version.folder, alias=alias)
    await live.client.delete_adapter("defect", 3)
    await live.client.register(kit.defect[2].folder)
    assert list((await client.get_model_metadata(model)).versions) == ["1", "2", "4"]
    assert list((await client.get_model_config(model)).config.version_policy.specific.versions) == [1, 2, 4]


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("weather", ""), ("defect@canary", ""), ("@", ""), ("defect@", ""), ("@live", ""), ("x" * 200, ""),
        ("defect", "9"), ("defect", "0"), ("defect", "99999999999"),
    ],
)  # fmt: skip
async def test_an_unknown_model(client: Any, model: str, version: str) -> None:
    await triton_refused(client.get_model_metadata(model, version), "NOT_FOUND")
    await triton_refused(client.get_model_config(model, version), "NOT_FOUND")
    await triton_refused(client.get_inference_statistics(model, version), "INVALID_ARGUMENT")


@pytest.mark.parametrize("model", ["", "x" * 200])
async def test_what_can_be_no_name(live: Served, model: str) -> None:
    for call in (
        stub(live).ModelMetadata(service_pb2.ModelMetadataRequest(name=model)),
        stub(live).ModelConfig(service_pb2.ModelConfigRequest(name=model)),
    ):
        error = await refused(call)
        assert (error.code, error.field) == (grpc.StatusCode.NOT_FOUND, "model_name")


@pytest.mark.parametrize("model", ["defect@", "defect@/picture"])
async def test_an_alias_that_is_missing(client: Any, model: str) -> None:
    sentence = await triton_refused(client.get_model_metadata(model), "NOT_FOUND")
    assert "an alias is missing" in sentence
    assert "defect@canary" in sentence


async def test_what_is_not_here_says_so(live: Served) -> None:
    calls = stub(live)
    for call in (
        calls.TraceSetting(service_pb2.TraceSettingRequest()),
        calls.LogSettings(service_pb2.LogSettingsRequest()),
        calls.CudaSharedMemoryRegister(service_pb2.CudaSharedMemoryRegisterRequest(name="x")),
    ):
        error = await refused(call)
        assert isinstance(error, UnimplementedError)
        assert error.fix


async def test_no_cuda_memory_is_registered(client: Any) -> None:
    assert not (await client.get_cuda_shared_memory_status()).regions
    await triton_refused(client.get_cuda_shared_memory_status("frames"), "NOT_FOUND")
    await client.unregister_cuda_shared_memory()


async def test_the_blocking_client(live: Served) -> None:
    client = triton.InferenceServerClient(live.address)
    try:
        assert await blocking(client.is_server_live)
        assert await blocking(client.is_model_ready, "defect")
        assert (await blocking(client.get_model_metadata, "defect")).name == "defect"
        assert (await blocking(client.get_model_config, "defect", as_json=True))["config"]["name"] == "defect"
    finally:
        await blocking(client.close)
