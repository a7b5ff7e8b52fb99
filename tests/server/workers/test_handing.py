"""A picture that does not fit into its block is not handed over, and nothing else in its place."""

from __future__ import annotations

import os

import pytest

from lensmount_server.frames import Frame, Still
from lensmount_server.streams import DropPolicy
from lensmount_server.video.mailbox import Mailbox
from lensmount_server.workers import handing
from lensmount_server.workers.block import FRAME_AT, Block, create_memory
from lensmount_server.workers.handing import Gaze, Handing
from lensmount_server.workers.messages import Looking, Next
from videos import numbered


@pytest.mark.parametrize("fits", [True, False])
def test_a_jpeg_that_finds_no_room(monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    expected = Still(numbered(2)).jpeg()
    monkeypatch.setattr(handing, "FRAME_BYTES", len(expected) - (not fits))
    memory, mailbox = create_memory(), Mailbox(DropPolicy.EVERY_FRAME, 2)
    with Block(memory, 0) as block:
        asked = Handing(0, mailbox, block, Gaze(Looking((0.0,))), 2)
        block.write(FRAME_AT, b"of an earlier frame" * 1000)
        mailbox.put(Frame(Still(numbered(2))))
        asked.ask(Next(0, (), 0, (), jpeg=True))
        handed = asked.handed()
        assert handed is not None
        assert bytes(block.read(FRAME_AT, handed.jpeg)) == (expected if fits else b"")
    os.close(memory)
