"""A frame with what its tasks said of it: a line above the picture, a card for each task below. Needs Pillow.

Nothing of the picture is covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from math import ceil

from PIL import Image, ImageDraw, ImageFont

from lensmount.results import Drops, Result

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

GROUND: Colour = (18, 20, 23)
TRACK: Colour = (58, 62, 68)
WHITE: Colour = (245, 245, 245)
GREY: Colour = (150, 154, 160)
AMBER: Colour = (250, 190, 70)
CYAN: Colour = (90, 200, 220)
VERSIONS: tuple[Colour, ...] = ((245, 170, 60), (100, 200, 110), (90, 165, 230), (200, 130, 220))

# Sizes in units; a unit is a pixel where the picture is as wide as the narrowest.
_HEAD, _CARD_HEIGHT, _CARD_WIDTH, _MARGIN = 24, 68, 190, 10
_NARROWEST = 640


@dataclass(frozen=True)
class Card:
    """What one task said; `stale` when it said so of an earlier frame."""

    result: Result
    stale: bool = False


@dataclass(frozen=True)
class Layout:
    """Where things are on the sheet, in pixels: the picture's size as it is shown, and the rows of cards."""

    width: int
    height: int
    rows: int
    unit: float

    @classmethod
    def of(cls, width: int, height: int, cards: int) -> Layout:
        """For a picture of this size, enlarged where letters would find no room, and so many cards."""
        scale = max(1.0, _NARROWEST / width)
        width, height = round(width * scale), round(height * scale)
        unit = width / _NARROWEST
        columns = max(1, min(cards, int(width / (_CARD_WIDTH * unit))))
        return cls(width, height, ceil(max(cards, 1) / columns), unit)

    @property
    def head(self) -> int:
        """The height of the line above."""
        return round(_HEAD * self.unit)

    @property
    def row(self) -> int:
        """The height of a row of cards."""
        return round(_CARD_HEIGHT * self.unit)

    @property
    def size(self) -> tuple[int, int]:
        """Of the sheet, width and height; even, as H.264 in 4:2:0 wants it."""
        height = self.head + self.height + self.rows * self.row
        return self.width + self.width % 2, height + height % 2


def draw(picture: Image.Image, cards: Sequence[Card], layout: Layout) -> Image.Image:
    """The sheet of one frame: RGB of the layout's size. A picture of another size is fitted in."""
    sheet = Image.new("RGB", layout.size, GROUND)
    pen = ImageDraw.Draw(sheet)
    _place(sheet, picture, layout)
    fresh = [card.result for card in cards if not card.stale]
    _head(pen, fresh or [card.result for card in cards], layout)
    columns = max(1, ceil(len(cards) / layout.rows))
    for index, card in enumerate(cards):
        left, width = round(index % columns * layout.width / columns), round(layout.width / columns)
        top = layout.head + layout.height + index // columns * layout.row
        _card(pen, card, (left, top, width), layout.unit)
    return sheet


def _place(sheet: Image.Image, picture: Image.Image, layout: Layout) -> None:
    scale = min(layout.width / picture.width, layout.height / picture.height)
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    fitted = picture if picture.size == (width, height) else picture.resize((width, height))
    sheet.paste(fitted, ((layout.width - width) // 2, layout.head + (layout.height - height) // 2))


def _head(pen: ImageDraw.ImageDraw, results: Sequence[Result], layout: Layout) -> None:
    result, unit = results[0], layout.unit
    when = datetime.fromtimestamp(result.capture_time_ns / 1e9, UTC).astimezone()
    place = round(_MARGIN * unit), round(5 * unit)
    pen.text(place, f"{result.source}   frame {result.frame_index}", WHITE, _font(round(12 * unit)))
    age_ms = max(each.timings.total_ms for each in results)
    told = f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03}   {age_ms:.0f} ms"
    pen.text((layout.width - place[0], place[1]), told, GREY, _font(round(12 * unit)), anchor="ra")


def _card(pen: ImageDraw.ImageDraw, card: Card, box: tuple[int, int, int], unit: float) -> None:
    """Three lines: the task and whether its answer is new; the answer over its bar; other labels, and drops."""
    result = card.result
    left, right = box[0] + round(_MARGIN * unit), box[0] + box[2] - round(_MARGIN * unit)
    small, large = _font(round(11 * unit)), _font(round(17 * unit))
    colour = VERSIONS[(result.version - 1) % len(VERSIONS)]
    first, second, bar, third = (box[1] + round(y * unit) for y in (5, 20, 43, 50))
    _line(pen, f"{result.task} v{result.version}", _freshness(card), (left, right, first), small, (colour, CYAN))
    _line(pen, _answer(result), "", (left, right, second), large, (GREY if card.stale else WHITE, WHITE))
    pen.rectangle((left, bar, right, bar + round(3 * unit)), TRACK)
    filled = left + round((right - left) * _best(result))
    pen.rectangle((left, bar, filled, bar + round(3 * unit)), GREY if card.stale else colour)
    drops = Drops() if card.stale else result.dropped_before
    _line(pen, _others(result), _dropped(drops), (left, right, third), small, (GREY, _alarm(drops)))


def _line(
    pen: ImageDraw.ImageDraw, text: str, note: str, box: tuple[int, int, int], font: Font, colours: Sequence[Colour]
) -> None:
    """A text from the left and a note from the right, in two colours; the text gives way."""
    left, right, top = box
    pen.text((right, top), note, colours[1], font, anchor="ra")
    room = right - left - pen.textlength(f"  {note}" if note else "", font)
    pen.text((left, top), _cut(pen, text, font, room), colours[0], font)


def _freshness(card: Card) -> str:
    if card.stale:
        return f"frame {card.result.frame_index}"
    return "REUSED" if card.result.reused else ""


def _dropped(drops: Drops) -> str:
    counts = ((field.name, getattr(drops, field.name)) for field in fields(drops))
    told = ", ".join(f"{count} {reason}" for reason, count in counts if count)
    return f"dropped {told}" if told else ""


def _alarm(drops: Drops) -> Colour:
    """What a rate or the motion gate leaves out was meant to be; everything else was not."""
    return AMBER if drops.total > drops.rate + drops.gate else GREY


def _answer(result: Result) -> str:
    scores = {each.label: each.score for each in result.scores}
    return "   ".join(f"{label} {scores.get(label, 0.0):.2f}" for label in result.labels) or "nothing"


def _best(result: Result) -> float:
    """The score of the decision; of the most likely label where nothing was decided."""
    return result.score if result.labels else max((each.score for each in result.scores), default=0.0)


def _others(result: Result) -> str:
    left = sorted((each for each in result.scores if each.label not in result.labels), key=lambda each: -each.score)
    return "   ".join(f"{each.label} {each.score:.2f}" for each in left)


def _cut(pen: ImageDraw.ImageDraw, text: str, font: Font, room: float) -> str:
    """As much of a text as there is room for."""
    if pen.textlength(text, font) <= room:
        return text
    while text and pen.textlength(f"{text}…", font) > room:
        text = text[:-1]
    return f"{text}…" if text else ""


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)
