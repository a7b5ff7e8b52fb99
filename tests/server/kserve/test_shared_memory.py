"""System shared memory, with the stock client's own helpers, and every way in which a region can be wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2

from factories import pictures
from kserving import own_scores, shots_of, stub, triton_of, triton_refused
from lensmount.errors import InvalidInputError, LensmountError, NotFoundError, TooLargeError
from lensmount_server.kserve.neighbours import user_behind
from lensmount_server.kserve.shared_memory import FOLDER, Place, Regions
from serving import Served, refused

SHOTS = pictures(2, seed=12)
STACK = np.stack(SHOTS)
ME = os.geteuid()


@pytest.fixture
def key() -> Iterator[str]:
    name = f"lensmount-test-{uuid.uuid4().hex}"
    yield name
    (FOLDER / name).unlink(missing_ok=True)


@pytest.fixture
def handle(key: str) -> Iterator[Any]:
    """An object of the client's with the two pictures, and room for outputs behind them."""
    made = shm.create_shared_memory_region("pictures", key, STACK.nbytes + 1024)
    shm.set_shared_memory_region(made, [STACK])
    yield made
    shm.destroy_shared_memory_region(made)


def in_memory(size: int = STACK.nbytes, offset: int = 0, region: str = "pictures") -> list[Any]:
    made = triton.InferInput("picture", list(STACK.shape), "UINT8")
    made.set_shared_memory(region, size, offset)
    return [made]


def scores_in_memory(size: int = 24, offset: int = STACK.nbytes) -> list[Any]:
    made = triton.InferRequestedOutput("scores")
    made.set_shared_memory("pictures", size, offset)
    return [made]


async def test_in_and_out(live: Served, client: Any, key: str, handle: Any) -> None:
    await client.register_system_shared_memory("pictures", key, STACK.nbytes + 1024)
    result = await client.infer("defect", in_memory(), outputs=scores_in_memory())
    expected = [await own_scores(live, each) for each in SHOTS]
    found = shm.get_contents_as_numpy(handle, np.float32, [2, 3], STACK.nbytes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    output = result.get_output("scores")
    assert (output.datatype, list(output.shape)) == ("FP32", [2, 3])
    assert output.parameters["shared_memory_region"].string_param == "pictures"
    assert output.parameters["shared_memory_byte_size"].int64_param == 24
    assert list(result.get_response().raw_output_contents) == [b""]


async def test_one_output_in_memory_and_the_other_in_the_message(client: Any, key: str, handle: Any) -> None:
    await client.register_system_shared_memory("pictures", key, STACK.nbytes + 1024)
    outputs = [*scores_in_memory(), triton.InferRequestedOutput("labels")]
    result = await client.infer("defect", shots_of(*SHOTS), outputs=outputs)
    assert result.as_numpy("labels").shape == (2, 1)
    assert shm.get_contents_as_numpy(handle, np.float32, [2, 3], STACK.nbytes).sum() == pytest.approx(2)


async def test_a_part_of_an_object_as_a_region(live: Served, client: Any, key: str, handle: Any) -> None:
    one = SHOTS[0].nbytes
    await client.register_system_shared_memory("pictures", key, one, offset=one)
    made = triton.InferInput("picture", [1, *SHOTS[1].shape], "UINT8")
    made.set_shared_memory("pictures", one)
    result = await client.infer("defect", [made])
    assert np.array_equal(result.as_numpy("scores"), [await own_scores(live, SHOTS[1])])
    await triton_refused(client.infer("defect", in_memory(offset=1, size=one)), "INVALID_ARGUMENT")


async def test_status_and_unregister(client: Any, key: str, handle: Any) -> None:
    await client.register_system_shared_memory("pictures", key, 100, offset=7)
    await client.register_system_shared_memory("others", f"/{key}", 10)
    regions = (await client.get_system_shared_memory_status()).regions
    assert {name: (each.name, each.offset, each.byte_size) for name, each in regions.items()} == {
        "pictures": ("pictures", 7, 100),
        "others": ("others", 0, 10),
    }
    assert set((await client.get_system_shared_memory_status("others")).regions) == {"others"}
    await triton_refused(client.get_system_shared_memory_status("nothing"), "NOT_FOUND")
    await client.unregister_system_shared_memory("nothing")
    await client.unregister_system_shared_memory("others")
    assert set((await client.get_system_shared_memory_status()).regions) == {"pictures"}
    await client.unregister_system_shared_memory()
    assert not (await client.get_system_shared_memory_status()).regions
    await triton_refused(client.infer("defect", in_memory()), "NOT_FOUND")


async def test_clients_of_one_user_share_their_names(live: Served, client: Any, key: str, handle: Any) -> None:
    await client.register_system_shared_memory("pictures", key, STACK.nbytes)
    async with triton_of(live) as another:
        sentence = await triton_refused(
            another.register_system_shared_memory("pictures", key, STACK.nbytes), "ALREADY_EXISTS"
        )
        assert "registered" in sentence
        assert (await another.infer("defect", in_memory())).as_numpy("scores").shape == (2, 3)


WRONG: dict[str, tuple[int, int, str]] = {
    "beyond the region": (STACK.nbytes, 1025, "INVALID_ARGUMENT"),
    "larger than the region": (STACK.nbytes * 2, 0, "INVALID_ARGUMENT"),
    "not what the shape needs": (STACK.nbytes - 1, 0, "INVALID_ARGUMENT"),
    "nothing": (0, 0, "INVALID_ARGUMENT"),
    "far beyond": (STACK.nbytes, 2**63 - 1, "INVALID_ARGUMENT"),
    "all there is": (2**63 - 1, 2**63 - 1, "INVALID_ARGUMENT"),
    "more than a message": (40 << 20, 0, "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_place_that_is_none(client: Any, key: str, handle: Any, name: str) -> None:
    size, offset, code = WRONG[name]
    await client.register_system_shared_memory("pictures", key, STACK.nbytes + 1024)
    await triton_refused(client.infer("defect", in_memory(size, offset)), code)
    assert (await client.infer("defect", in_memory())).as_numpy("scores").shape == (2, 3)


async def test_an_input_in_a_region_beyond_what_a_message_may_hold(client: Any, key: str) -> None:
    (FOLDER / key).touch()
    os.truncate(FOLDER / key, 40 << 20)
    await client.register_system_shared_memory("pictures", key, 40 << 20)
    await triton_refused(client.infer("defect", in_memory(40 << 20)), "RESOURCE_EXHAUSTED")
    await triton_refused(client.infer("defect", in_memory((40 << 20) + 1)), "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("size", "offset", "code"),
    [
        (23, 0, "INTERNAL"),
        (24, STACK.nbytes + 1001, "INVALID_ARGUMENT"),
        (24, 2**63 - 1, "INVALID_ARGUMENT"),
        (2**63 - 1, 0, "INVALID_ARGUMENT"),
    ],
)
async def test_a_place_for_an_output_that_is_none(
    client: Any, key: str, handle: Any, size: int, offset: int, code: str
) -> None:
    await client.register_system_shared_memory("pictures", key, STACK.nbytes + 1024)
    await triton_refused(client.infer("defect", shots_of(*SHOTS), outputs=scores_in_memory(size, offset)), code)
    assert np.array_equal(shm.get_contents_as_numpy(handle, np.uint8, STACK.shape), STACK)


@pytest.mark.parametrize("trouble", ["it is too small", "its object was cut short"])
async def test_where_the_second_output_has_no_room_the_first_is_not_written(
    client: Any, key: str, handle: Any, trouble: str
) -> None:
    await client.register_system_shared_memory("pictures", key, STACK.nbytes + 1024)
    labels = triton.InferRequestedOutput("labels")
    if trouble == "it is too small":
        labels.set_shared_memory("pictures", 1, STACK.nbytes + 100)
    else:
        labels.set_shared_memory("pictures", 100, STACK.nbytes + 100)
        os.truncate(FOLDER / key, STACK.nbytes + 101)
    sentence = await triton_refused(
        client.infer("defect", shots_of(*SHOTS), outputs=[*scores_in_memory(), labels]),
        "INTERNAL" if trouble == "it is too small" else "INVALID_ARGUMENT",
    )
    assert sentence.startswith("outputs.labels")
    with (FOLDER / key).open("rb") as written:
        written.seek(STACK.nbytes)
        assert not any(written.read())
    if trouble == "it is too small":  # the guard: with room for both, the same bytes are written
        labels.set_shared_memory("pictures", 100, STACK.nbytes + 100)
        await client.infer("defect", shots_of(*SHOTS), outputs=[*scores_in_memory(), labels])
        assert shm.get_contents_as_numpy(handle, np.float32, [2, 3], STACK.nbytes).all()


async def test_an_object_that_is_cut_short_later(live: Served, client: Any, key: str, handle: Any) -> None:
    """Where a server maps the object, this is a signal that kills it."""
    await client.register_system_shared_memory("pictures", key, STACK.nbytes + 1024)
    os.truncate(FOLDER / key, 100)
    for call in (
        client.infer("defect", in_memory()),
        client.infer("defect", shots_of(*SHOTS), outputs=scores_in_memory()),
    ):
        assert "smaller by now" in await triton_refused(call, "INVALID_ARGUMENT")
    assert (FOLDER / key).stat().st_size == 100
    os.truncate(FOLDER / key, STACK.nbytes + 1024)
    assert (await client.infer("defect", in_memory())).as_numpy("scores").shape == (2, 3)


async def test_a_name_that_is_gone_stays_readable(client: Any, key: str, handle: Any) -> None:
    await client.register_system_shared_memory("pictures", key, STACK.nbytes)
    (FOLDER / key).rename(FOLDER / f"{key}-moved")
    try:
        assert (await client.infer("defect", in_memory())).as_numpy("scores").shape == (2, 3)
    finally:
        (FOLDER / f"{key}-moved").rename(FOLDER / key)


@pytest.mark.parametrize(
    "name", ["", "/", "..", ".", "../etc/passwd", "a/b", "//a", "a\0b", "x" * 300, "not-there", "ü"]
)
async def test_what_is_no_key(live: Served, name: str) -> None:
    request = service_pb2.SystemSharedMemoryRegisterRequest(name="x", key=name, byte_size=1)
    error = await refused(stub(live).SystemSharedMemoryRegister(request))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "key")
    assert error.fix


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0), (0, 2**64 - 1), (2**64 - 1, 1), (2**64 - 1, 2**64 - 1), (1, STACK.nbytes + 1024)]
)
async def test_a_region_beyond_its_object(live: Served, key: str, handle: Any, offset: int, size: int) -> None:
    request = service_pb2.SystemSharedMemoryRegisterRequest(name="x", key=key, offset=offset, byte_size=size)
    error = await refused(stub(live).SystemSharedMemoryRegister(request))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "byte_size")


async def test_what_is_no_object(live: Served, key: str) -> None:
    path = FOLDER / key
    makes: tuple[Callable[[], None], ...] = (
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to("/etc/hostname"),
    )
    for make, remove in zip(makes, (path.unlink, path.rmdir, path.unlink), strict=True):
        make()
        request = service_pb2.SystemSharedMemoryRegisterRequest(name="x", key=key, byte_size=1)
        error = await refused(stub(live).SystemSharedMemoryRegister(request))
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "key")
        remove()


@contextmanager
def without_root() -> Iterator[None]:
    """While open, this process may open only what its user may."""
    os.seteuid(4321 if ME == 0 else ME)
    try:
        yield
    finally:
        os.seteuid(ME)


def test_an_object_that_the_server_may_not_open(key: str) -> None:
    """As where it is of mode 0600 and the client is another user than the server."""
    (FOLDER / key).write_bytes(b"0123456789")
    (FOLDER / key).chmod(0o600 if ME == 0 else 0)
    regions = Regions()
    with without_root():
        error = registered(regions, ME, key)
    assert isinstance(error, InvalidInputError)
    assert "may not open" in error.message
    assert "0666" in error.fix
    (FOLDER / key).chmod(0o666)
    with without_root():
        assert registered(regions, ME, key) is None
    regions.close()


def registered(regions: Regions, uid: int, key: str, name: str = "region") -> LensmountError | None:
    try:
        regions.register(uid, name, key, 0, 10)
    except LensmountError as error:
        return error
    return None


def test_another_users_region_is_neither_seen_nor_used_nor_forgotten(key: str) -> None:
    (FOLDER / key).write_bytes(b"0123456789")
    regions = Regions()
    assert registered(regions, ME, key) is None
    assert regions.read(ME, Place("region", 2, 3), "x") == b"234"
    other = ME + 1
    assert regions.status(other) == []
    for use in (
        lambda: regions.read(other, Place("region", 0, 3), "x"),
        lambda: regions.write(other, Place("region", 0, 3), b"xyz", "x"),
        lambda: regions.status(other, "region"),
    ):
        with pytest.raises(NotFoundError):
            use()
    regions.unregister(other)
    regions.unregister(other, "region")
    assert [region.name for region in regions.status(ME)] == ["region"]
    regions.close()


def test_an_object_of_another_user_is_not_opened_for_one(key: str) -> None:
    (FOLDER / key).write_bytes(b"0123456789")
    regions = Regions()
    error = registered(regions, ME + 1, key)
    assert isinstance(error, InvalidInputError)
    assert error.field == "key"
    assert registered(regions, ME, key) is None
    regions.close()


def test_regions_are_bounded_and_their_files_are_closed(key: str) -> None:
    (FOLDER / key).write_bytes(b"0123456789")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    regions = Regions()
    regions.limit = 5
    for number in range(5):
        assert registered(regions, ME, key, str(number)) is None
    assert isinstance(registered(regions, ME, key, "one more"), TooLargeError)
    regions.unregister(ME, "3")
    assert registered(regions, ME, key, "one more") is None
    regions.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


CONNECT = """
import os, socket, sys
if int(sys.argv[2]) != os.geteuid():
    os.setuid(int(sys.argv[2]))
own = socket.socket()
own.connect(("127.0.0.1", int(sys.argv[1])))
sys.stdin.read()
"""


@pytest.mark.parametrize("uid", [ME, pytest.param(4321, marks=pytest.mark.skipif(ME != 0, reason="needs root"))])
def test_the_kernel_tells_who_connected(uid: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [sys.executable, "-c", CONNECT, str(port), str(uid)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.stdin
            listening.settimeout(60)
            connection, peer = listening.accept()
            with connection:
                assert user_behind(f"ipv4:127.0.0.1:{peer[1]}", port) == uid
                with pytest.raises(InvalidInputError):
                    user_behind(f"ipv4:127.0.0.1:{peer[1]}", port ^ 1)
            process.stdin.close()
            process.wait(60)
        with pytest.raises(InvalidInputError):
            user_behind(f"ipv4:127.0.0.1:{peer[1]}", port)


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "ipv4:10.0.0.1:1234",
        "ipv6:[2001:db8::1]:1",
        "unix:/tmp/x",
        "ipv4:127.0.0.1",
        "ipv4:999.0.0.1:5",
        "ipv6:%5B:::%5D:1",
    ],
)
def test_who_is_not_on_this_machine(peer: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        user_behind(peer, 50051)
    assert caught.value.fix
