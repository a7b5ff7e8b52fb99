"""The Python of docs/kserve.md, run as it stands there, one block after the other."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from serving import Kit, build_kit, serving

TEXT = (Path(__file__).parents[1] / "docs" / "kserve.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


async def test_the_examples_run(tmp_path: Path) -> None:
    kit: Kit = build_kit(tmp_path)
    async with serving(kit, tmp_path / "data") as served:
        await served.client.register(kit.defect[0].folder, alias="live")
        code = "\n".join(BLOCKS)
        local = code.replace("localhost:50051", served.address)
        assert local != code
        command = [sys.executable, "-W", "error", "-c", local]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "defect-" in done.stdout
    # Two pictures, twice, eight times on a stream: 2 + 2 + 16 pictures in ten requests.
    assert re.search(r"^20 \d+ 10$", done.stdout, re.MULTILINE), done.stdout


def test_every_part_has_its_example() -> None:
    assert len(BLOCKS) == 4
