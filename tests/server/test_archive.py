from __future__ import annotations

import io
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing.zipping import Archive, write_archive
from lensmount.archive import open_archive
from lensmount.errors import InvalidInputError, LensmountError, TooLargeError
from lensmount_adapters.archive import unpack
from lensmount_adapters.package import MAX_BYTES, read_package
from serving import Kit

FILES = tuple(MAX_BYTES)


@pytest.fixture(scope="module")
def contents(kit: Kit) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in kit.defect[0].folder.iterdir()}


@pytest.fixture(scope="module")
def packed(kit: Kit) -> bytes:
    """A good archive, as a client sends it."""
    with open_archive(kit.defect[0].folder) as archive:
        return archive.file.read()


class Sample:
    """A good archive and what is in it, without a representation that goes on for pages."""

    def __init__(self, packed: bytes, contents: dict[str, bytes]) -> None:
        self.packed, self.contents = packed, contents


@pytest.fixture(scope="module")
def sample(packed: bytes, contents: dict[str, bytes]) -> Sample:
    return Sample(packed, contents)


def zipped(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    return packed_with([(zipfile.ZipInfo(name), body) for name, body in entries.items()], compression)


def packed_with(entries: Iterable[tuple[zipfile.ZipInfo, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for info, body in entries:
            archive.writestr(info, body, compression)
    return data.getvalue()


def records(data: bytes | bytearray, signature: bytes) -> list[int]:
    """Where the records of this kind begin."""
    return [at for at in range(len(data)) if data.startswith(signature, at)]


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


def opened(data: bytes) -> set[str]:
    """Unpack an archive; the names of what it held. Nothing may be written beside its folder."""
    with tempfile.TemporaryDirectory() as scratch:
        archive, folder = Path(scratch) / "in" / "upload.zip", Path(scratch) / "in" / "package"
        archive.parent.mkdir()
        archive.write_bytes(data)
        try:
            unpack(archive, folder)
            return {path.name for path in folder.iterdir()}
        finally:
            assert {path.name for path in Path(scratch).iterdir()} == {"in"}
            assert {path.name for path in archive.parent.iterdir()} <= {"upload.zip", "package"}


def refusal(data: bytes) -> LensmountError:
    with pytest.raises((InvalidInputError, TooLargeError)) as caught:
        opened(data)
    error: LensmountError = caught.value
    assert error.field
    assert error.fix
    return error


def test_what_was_packed_comes_out(kit: Kit, packed: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "upload.zip"
    archive.write_bytes(packed)
    unpack(archive, tmp_path / "package")
    assert read_package(tmp_path / "package").content_hash == kit.defect[0].adapter.content_hash


@pytest.mark.parametrize(
    "name",
    [
        "../task.json",
        "../../../../etc/task.json",
        "/etc/passwd",
        "/task.json",
        "C:\\task.json",
        "..\\task.json",
        "package/task.json",
        "./task.json",
        "task.json/",
        "TASK.JSON",
        "task.json ",
        "task.jsön",
        ".hidden",
        "evil.pkl",
        "a" * 60_000,
    ],
)
def test_a_name_that_no_package_has_is_refused(contents: dict[str, bytes], name: str) -> None:
    error = refusal(zipped({**contents, name: b"{}"}))
    assert (error.field, error.value[:20]) == ("package", name[:20])


def test_a_name_that_hides_behind_a_zero_byte_is_refused_or_harmless(contents: dict[str, bytes]) -> None:
    body = zipped({**contents, "task.jsonXx": b"{}"}).replace(b"task.jsonXx", b"task.json\0x")
    assert refusal(body)


def test_an_entry_that_comes_twice_is_refused(contents: dict[str, bytes]) -> None:
    pairs = [(zipfile.ZipInfo(name), body) for name, body in contents.items()]
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = packed_with([*pairs, (zipfile.ZipInfo("task.json"), b"{}")])
    assert refusal(data).value == "task.json"


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_entry_is_refused(contents: dict[str, bytes], compression: int) -> None:
    assert "stored" in refusal(zipped(contents, compression)).message


def test_a_bomb_is_refused_before_it_goes_off(contents: dict[str, bytes]) -> None:
    bomb = {"README.md": b"\0" * (MAX_BYTES["README.md"] + 1)}
    data = zipped({**bomb, "task.json": contents["task.json"]}, zipfile.ZIP_DEFLATED)
    assert len(data) < 1 << 20
    error = refusal(data)
    assert isinstance(error, TooLargeError)
    assert error.field == "README.md"


def resized(data: bytes, name: str, size: int, kinds: tuple[bytes, ...]) -> bytes:
    """An archive that says of one entry that it is of another size."""
    changed = bytearray(data)
    for signature, sizes, header in ((LOCAL, 18, 30), (CENTRAL, 20, 46)):
        for at in records(data, signature) if signature in kinds else ():
            if data.startswith(name.encode(), at + header):
                changed[at + sizes : at + sizes + 8] = size.to_bytes(4, "little") * 2
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_no_entry_may_say_that_it_is_larger_than_its_limit(contents: dict[str, bytes], name: str) -> None:
    data = resized(zipped({name: b"x", **contents}), name, MAX_BYTES[name] + 1, (LOCAL, CENTRAL))
    assert isinstance(refusal(data), TooLargeError)


@pytest.mark.parametrize("kinds", [(CENTRAL,), (LOCAL, CENTRAL)])
def test_an_entry_that_says_more_than_there_is_is_refused(contents: dict[str, bytes], kinds: tuple[bytes, ...]) -> None:
    for name in contents:
        refusal(resized(zipped(contents), name, 1 << 20, kinds))


def test_an_encrypted_entry_is_refused(packed: bytes) -> None:
    data = bytearray(packed)
    for signature, flags in ((LOCAL, 6), (CENTRAL, 8)):
        for at in records(packed, signature):
            data[at + flags] |= 1
    assert "encrypted" in refusal(bytes(data)).message


def test_a_link_is_not_followed(contents: dict[str, bytes], tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    link = zipfile.ZipInfo("README.md")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    pairs = [(zipfile.ZipInfo(name), body) for name, body in contents.items() if name != "README.md"]
    archive = tmp_path / "upload.zip"
    archive.write_bytes(packed_with([*pairs, (link, str(secret).encode())]))
    unpack(archive, tmp_path / "package")
    assert not (tmp_path / "package" / "README.md").is_symlink()
    assert (tmp_path / "package" / "README.md").read_text() == str(secret)


@pytest.mark.parametrize("part", range(20))
def test_a_truncated_archive_is_refused(packed: bytes, part: int) -> None:
    refusal(packed[: len(packed) * part // 20])


@pytest.mark.parametrize("data", [b"", b"PK\5\6", b"\x80\x04\x95pickle", b"x" * 100_000])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    refusal(data)


def test_damage_is_noticed(packed: bytes) -> None:
    refusal(packed[:-1])
    at = packed.index(b"lora_A")
    refusal(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :])


def test_a_directory_of_millions_is_refused_before_it_is_read() -> None:
    record = CENTRAL + bytes(24) + len("README.md").to_bytes(2, "little") + bytes(16) + b"README.md"
    directory = record * 200_000
    end = b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + len(directory).to_bytes(4, "little") + bytes(6)
    assert "directory" in refusal(directory + end).message


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "put", "copy"]), st.floats(0, 1), st.integers(0, 255), st.integers(1, 64)
    ),
    min_size=1,
    max_size=6,
)


def mutated(data: bytes, mutations: list[tuple[str, float, int, int]]) -> bytes:
    """The data after some damage: half of it among the last kilobyte, where a ZIP file has its directory."""
    changed = bytearray(data)
    for kind, where, value, length in mutations:
        span = max(len(changed) - 1, 0)
        at = round(span * where * 2) if where < 0.5 else max(span - round((where - 0.5) * 2 * 1024), 0)
        match kind:
            case "flip" if changed:
                changed[at] ^= value
            case "cut":
                del changed[at : at + length]
            case "put":
                changed[at:at] = bytes([value]) * length
            case "copy":
                changed[at : at + length] = changed[:length]
    return bytes(changed)


@settings(max_examples=300, deadline=None)
@given(mutations=MUTATIONS)
def test_any_damage_gives_an_error_of_ours_or_the_same_content(
    sample: Sample, mutations: list[tuple[str, float, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        archive, folder = Path(scratch) / "upload.zip", Path(scratch) / "package"
        archive.write_bytes(mutated(sample.packed, mutations))
        try:
            unpack(archive, folder)
        except LensmountError:
            return
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert found.items() <= sample.contents.items()


@pytest.mark.parametrize("length", [5000, 65_535])
def test_a_name_of_any_length_makes_a_short_error(contents: dict[str, bytes], length: int) -> None:
    """`zipfile` says both names where the directory and a file disagree."""
    archive = Archive.of(contents)
    archive.entries[0].local_name = b"a" * length
    error = refusal(write_archive(archive))
    assert "aaaa" in error.message
    assert len(str(error)) < 1500
