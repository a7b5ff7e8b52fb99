"""Every entry is opened once; what is no picture is listed; what was decoded is found again, to the bit."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from factories import random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels
from lensmount_training.data import Content, Dataset, Entry, Listing, Skipped, reading
from lensmount_training.data.folder import list_folder
from lensmount_training.progress import NoProgress
from stills import encoded, fill

PREPROCESSING = random_backbone("test_vit").preprocessing


class Said(NoProgress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)


def read(folder: Path, cache: Path) -> Dataset:
    return reading.read(list_folder(folder), PREPROCESSING, cache, NoProgress())


def listing_of(pictures: dict[str, Callable[[], Pixels]], labels: dict[str, str] | None = None) -> Listing:
    """Two classes; the digest of a picture is that of its name."""

    def entry(name: str, decode: Callable[[], Pixels], place: int) -> Entry:
        content = Content(hashlib.sha256(name.encode()).hexdigest(), decode)
        label = labels[name] if labels else ("a", "b")[place % 2]
        return Entry(name, (label,), lambda: content)

    entries = tuple(entry(name, decode, place) for place, (name, decode) in enumerate(pictures.items()))
    return Listing(Path("somewhere"), "test", "single_label", ("a", "b"), entries)


def plain(value: int, height: int = 40, width: int = 60) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def test_a_data_set_is_in_the_order_of_its_listing(parts: Path, cache: Path) -> None:
    dataset = read(parts, cache)
    assert dataset.labels == ("hole", "ok")
    assert [picture.labels for picture in dataset.pictures] == [(0,)] * 5 + [(1,)] * 6
    assert dataset.pictures[0].file == "hole/0.png"
    assert dataset.pictures[0].digest == hashlib.sha256((parts / "hole" / "0.png").read_bytes()).hexdigest()
    assert dataset.rows[:].shape == (11, 3, PREPROCESSING.height, PREPROCESSING.width)
    assert dataset.skipped == ()


def test_rows_are_the_prepared_pictures_fresh_and_cached(parts: Path, cache: Path) -> None:
    fresh = read(parts, cache)
    cached = read(parts, cache)
    for dataset in (fresh, cached):
        for place, picture in enumerate(dataset.pictures):
            wanted = PREPROCESSING.prepare(dataset.original(picture.file))
            assert torch.equal(dataset.rows[torch.tensor([place])][0], wanted)
    assert torch.equal(fresh.rows[:], cached.rows[:])
    assert fresh.pictures == cached.pictures


def counted(parts: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> tuple[Dataset, int]:
    calls: list[str] = []
    decode = reading._decode

    def counting(content: Content, *others: object) -> object:
        calls.append(content.digest)
        return decode(content, *others)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_decode", counting)
        dataset = read(parts, cache)
    assert len(calls) == len(set(calls))
    return dataset, len(calls)


def test_the_second_read_decodes_nothing(parts: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(parts, monkeypatch, cache)[1] == 11
    assert counted(parts, monkeypatch, cache)[1] == 0


def test_only_what_is_new_is_decoded(parts: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(parts, monkeypatch, cache)
    (parts / "ok" / "0.png").rename(parts / "hole" / "renamed.png")
    (parts / "ok" / "new.png").write_bytes(encoded(500))
    dataset, decoded = counted(parts, monkeypatch, cache)
    assert decoded == 1
    assert len(dataset.pictures) == 12
    for place, picture in enumerate(dataset.pictures):
        wanted = PREPROCESSING.prepare(dataset.original(picture.file))
        assert torch.equal(dataset.rows[torch.tensor([place])][0], wanted)


def test_other_preprocessing_is_another_shelf(parts: Path, cache: Path) -> None:
    first = read(parts, cache)
    other = PREPROCESSING.model_copy(update={"height": 64, "width": 96})
    second = reading.read(list_folder(parts), other, cache, NoProgress())
    assert second.rows[:].shape[2:] == (64, 96)
    assert first.rows[:].shape[2:] == (PREPROCESSING.height, PREPROCESSING.width)


def test_the_order_is_that_of_the_listing_whichever_thread_is_first(cache: Path) -> None:
    """The pictures in front take longest; several threads are at work at once."""
    working: set[int] = set()

    def slow(place: int) -> Callable[[], Pixels]:
        def decode() -> Pixels:
            working.add(threading.get_ident())
            time.sleep(0.02 if place < 4 else 0.0)
            return plain(place)

        return decode

    listing = listing_of({f"{place:02}": slow(place) for place in range(20)})
    dataset = reading.read(listing, PREPROCESSING, cache, NoProgress())
    assert dataset.rows[:].float().mean((1, 2, 3)).tolist() == list(range(20))
    assert [picture.file for picture in dataset.pictures] == [f"{place:02}" for place in range(20)]
    assert 1 < len(working) <= reading.THREADS


def test_few_decoded_pictures_wait(cache: Path) -> None:
    """Whole photographs are large: none is decoded long before it is its turn."""
    started: list[int] = []
    furthest = [0]

    def decoding(place: int) -> Callable[[], Pixels]:
        def decode() -> Pixels:
            if place == 0:
                time.sleep(0.1)
                furthest[0] = max(started, default=0)
            started.append(place)
            return plain(place)

        return decode

    reading.read(
        listing_of({f"{place:02}": decoding(place) for place in range(40)}), PREPROCESSING, cache, NoProgress()
    )
    assert furthest[0] <= 2 * reading.THREADS


def test_chunks_make_no_difference(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(parts, tmp_path / "one")
    monkeypatch.setattr(reading, "CHUNK", 3)
    assert torch.equal(read(parts, tmp_path / "many").rows[:], whole.rows[:])
    assert torch.equal(read(parts, tmp_path / "many").rows[:], whole.rows[:])


def test_bad_files_are_listed_and_stop_nothing(parts: Path, cache: Path) -> None:
    (parts / "ok" / "cut.jpg").write_bytes(encoded(7, "JPEG")[:200])
    (parts / "ok" / "notes.jpg").write_text("not a picture")
    (parts / "ok" / "scan.tif").write_bytes(encoded(8, "TIFF"))
    (parts / "ok" / "moving.gif").write_bytes(encoded(9, "GIF"))
    (parts / "hole" / "empty.png").write_bytes(b"")
    (parts / "hole" / "gone.png").symlink_to(parts / "nowhere.png")
    (parts / "hole" / "loop.png").symlink_to(parts / "hole" / "loop.png")
    said = Said()
    dataset = reading.read(list_folder(parts), PREPROCESSING, cache, said)
    reasons = {skipped.file: skipped.reason for skipped in dataset.skipped}
    formats = "the data is not a picture: JPEG, PNG, WEBP and BMP are read"
    assert reasons.pop("ok/cut.jpg").startswith("the picture is damaged")
    assert reasons == {
        "hole/empty.png": formats,
        "hole/gone.png": "No such file or directory",
        "hole/loop.png": "Too many levels of symbolic links",
        "ok/moving.gif": formats,
        "ok/notes.jpg": formats,
        "ok/scan.tif": formats,
    }
    assert [skipped.file for skipped in dataset.skipped] == sorted({*reasons, "ok/cut.jpg"})
    assert len(dataset.pictures) == 11
    assert [sentence.split(":")[0] for sentence in said.sentences] == [f"skipped {s.file}" for s in dataset.skipped]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_listed(parts: Path, cache: Path) -> None:
    (parts / "ok" / "5.png").chmod(0)
    assert read(parts, cache).skipped == (Skipped("ok/5.png", "Permission denied"),)


def test_what_was_skipped_once_is_skipped_again(parts: Path, cache: Path) -> None:
    (parts / "ok" / "cut.jpg").write_bytes(encoded(7, "JPEG")[:200])
    assert read(parts, cache).skipped == read(parts, cache).skipped != ()


@pytest.mark.parametrize(
    "error", [InvalidInputError("this one not"), OSError(5, "this one not"), OSError("this one not")]
)
def test_an_entry_that_fails_while_it_is_decoded_is_skipped(cache: Path, error: Exception) -> None:
    def fail() -> Pixels:
        raise error

    pictures: dict[str, Callable[[], Pixels]] = {f"{place:02}": lambda place=place: plain(place) for place in range(12)}  # type: ignore[misc]
    pictures["03"] = fail
    dataset = reading.read(listing_of(pictures), PREPROCESSING, cache, NoProgress())
    assert dataset.skipped == (Skipped("03", "this one not"),)
    assert dataset.rows[:].float().mean((1, 2, 3)).tolist() == [place for place in range(12) if place != 3]


def test_a_defect_of_ours_is_not_taken_for_a_bad_picture(cache: Path) -> None:
    def fail() -> Pixels:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reading.read(listing_of({f"{place}": fail for place in range(12)}), PREPROCESSING, cache, NoProgress())


def test_a_strip_that_can_not_be_resized_is_skipped(parts: Path, cache: Path) -> None:
    Image.new("L", (1, 16_000)).save(parts / "ok" / "strip.png")
    (skipped,) = read(parts, cache).skipped
    assert (skipped.file, skipped.reason) == ("ok/strip.png", "the picture is too narrow")


def test_a_copy_is_skipped_so_that_it_can_not_reach_the_test_set(parts: Path, cache: Path) -> None:
    (parts / "ok" / "again.png").write_bytes((parts / "hole" / "3.png").read_bytes())
    assert read(parts, cache).skipped == (Skipped("ok/again.png", "the same bytes as hole/3.png"),)


def sixteen_bit_rgb() -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write: one colour, 32x24."""
    row = b"\0" + struct.pack(">3H", 0xC8FF, 0x6400, 0x3280) * 32
    header = struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 24)) + chunk(b"IEND", b"")


def sixteen_bit_grey() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((24, 32), 0xC8FF, np.uint16)).save(out, "PNG")
    return out.getvalue()


def still(kind: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 100, 50)).convert(mode).save(out, kind, **options)
    return out.getvalue()


def animated(kind: str) -> bytes:
    others = [Image.new("RGB", (32, 24), colour) for colour in ("green", "blue")]
    return still(kind, save_all=True, append_images=others)


def lying() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it a quarter clockwise
    out = io.BytesIO()
    picture = Image.new("RGB", (24, 32), (0, 0, 0))
    picture.paste((200, 100, 50), (0, 16, 24, 32))
    picture.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", exif=exif, quality=100, subsampling=0)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "colour", "tolerance"),
    [
        (still("JPEG"), (200, 100, 50), 4),
        (still("JPEG", "CMYK"), (200, 100, 50), 8),
        (still("PNG"), (200, 100, 50), 0),
        (still("PNG", "RGBA"), (200, 100, 50), 0),
        (still("WEBP", lossless=True), (200, 100, 50), 0),
        (still("BMP"), (200, 100, 50), 0),
        (sixteen_bit_grey(), (200, 200, 200), 0),
        (sixteen_bit_rgb(), (200, 100, 50), 1),
        (animated("PNG"), (200, 100, 50), 0),
        (animated("WEBP"), (200, 100, 50), 4),
    ],
)
def test_formats(parts: Path, cache: Path, data: bytes, colour: tuple[int, int, int], tolerance: int) -> None:
    (parts / "ok" / "other").write_bytes(data)
    dataset = read(parts, cache)
    pixels = dataset.original("ok/other")
    assert pixels.shape == (24, 32, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= tolerance
    row = dataset.take(["ok/other"]).pixels[:][0]
    assert np.abs(row.permute(1, 2, 0).numpy().astype(int) - colour).max() <= tolerance


def test_a_photograph_lies_as_its_camera_was_held(parts: Path, cache: Path) -> None:
    (parts / "ok" / "lying.jpg").write_bytes(lying())
    dataset = read(parts, cache)
    pixels = dataset.original("ok/lying.jpg")
    assert pixels.shape == (32, 24, 3)
    assert np.abs(pixels[20:].astype(int) - (200, 100, 50)).max() < 6
    assert pixels[:12].max() < 6
    (picture,) = [picture for picture in dataset.pictures if picture.file == "ok/lying.jpg"]
    assert (picture.facts.width, picture.facts.height) == (24, 32)


def test_facts_of_known_pictures() -> None:
    grey = reading.measure(plain(51))
    assert (grey.width, grey.height, grey.sharpness) == (60, 40, 0.0)
    assert grey.brightness == pytest.approx(0.2)
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    facts = reading.measure(board)
    assert facts.brightness == pytest.approx(0.5)
    # Every inner Laplacian is four times 255, once up, once down.
    assert facts.sharpness == pytest.approx((4 * 255) ** 2, rel=0.1)
    green = np.zeros((8, 8, 3), np.uint8)
    green[:, :, 1] = 255
    assert reading.measure(green).brightness == pytest.approx(0.587, abs=0.002)


def test_a_blurred_picture_is_less_sharp_and_a_large_one_is_not_blurred() -> None:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    sharp = coarse.resize((512, 512), Image.Resampling.NEAREST)
    blurred = coarse.resize((512, 512), Image.Resampling.BICUBIC)
    large = coarse.resize((4096, 4096), Image.Resampling.NEAREST)
    figures = [reading.measure(np.asarray(picture)).sharpness for picture in (sharp, blurred, large)]
    assert figures[1] < figures[0] / 5
    assert figures[2] == pytest.approx(figures[0], rel=0.01)


def test_facts_come_back_from_the_cache(parts: Path, cache: Path) -> None:
    read(parts, cache)
    for picture in read(parts, cache).pictures:
        assert picture.facts == reading.measure(np.asarray(Image.open(parts / picture.file)))


def test_notes_and_what_the_listing_skipped_are_said_before_anything_is_refused(cache: Path) -> None:
    listing = Listing(Path("x"), "t", "single_label", ("a", "b"), (), (Skipped("1.png", "no such file"),), ("a note",))
    said = Said()
    with pytest.raises(InvalidInputError, match="no pictures"):
        reading.read(listing, PREPROCESSING, cache, said)
    assert said.sentences == ["a note", "skipped 1.png: no such file"]


def empty_class(root: Path) -> Path:
    fill(root / "two" / "ok", 6)
    (root / "two" / "hole").mkdir()
    return root / "two"


def few_pictures(root: Path) -> Path:
    fill(root / "few" / "ok", 6)
    fill(root / "few" / "hole", 4, seed=50)
    return root / "few"


def no_pictures(root: Path) -> Path:
    for label in ("ok", "hole"):
        (root / "none" / label).mkdir(parents=True)
    return root / "none"


def unreadable_class(root: Path) -> Path:
    fill(root / "bad" / "ok", 6)
    (root / "bad" / "hole").mkdir()
    for number in range(6):
        (root / "bad" / "hole" / f"{number}.png").write_text(f"{number}")
    return root / "bad"


def nothing_readable(root: Path) -> Path:
    folder = unreadable_class(root)
    for number in range(6):
        (folder / "ok" / f"{number}.png").write_text(f"ok {number}")
    return folder


def too_few_readable(root: Path) -> Path:
    folder = few_pictures(root)
    (folder / "hole" / "broken.png").write_text("x")
    return folder


@pytest.mark.parametrize(
    ("make", "message", "value"),
    [
        (empty_class, "the class has no pictures", "hole"),
        (few_pictures, "the class has 4 pictures, at least 5", "hole"),
        (no_pictures, "no pictures", "hole, ok"),
        (unreadable_class, "the class has no readable pictures", "hole"),
        (nothing_readable, "no readable pictures", "hole, ok"),
        (too_few_readable, "the class has 4 readable pictures", "hole"),
    ],
)
def test_data_that_can_not_be_trained_on(
    tmp_path: Path, cache: Path, make: Callable[[Path], Path], message: str, value: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        read(make(tmp_path), cache)
    assert caught.value.field == "data"
    assert value in caught.value.value
    assert caught.value.fix


def test_entries_are_not_held_in_memory(parts: Path, cache: Path) -> None:
    """What an entry holds before it is decoded does not grow with its file."""
    for entry in list_folder(parts).entries:
        cells = [cell.cell_contents for cell in entry.read().decode.__closure__ or ()]
        assert not [cell for cell in cells if isinstance(cell, bytes)]
