"""A server that is described by a file, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from lensmount import Client
from processes import Process, first_line
from serving import PATIENCE_S, Kit


def test_a_server_runs_as_its_file_and_its_environment_say(kit: Kit, tmp_path: Path) -> None:
    said = {
        "address": "127.0.0.1:1",
        "backbone": kit.backbone.name,
        "weights": str(kit.weights),
        "data_dir": str(tmp_path / "data"),
        "threads": 1,
    }
    file = tmp_path / "lensmount.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in said.items()))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "LENSMOUNT_CONFIG": str(file),
        "LENSMOUNT_ADDRESS": "127.0.0.1:0",
    }
    command = [sys.executable, "-m", "lensmount", "serve", "--engine", "reference", "--json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        process = Process(running, json.loads(first_line(running)))
        with Client(process.address, timeout=PATIENCE_S) as client:
            info = client.info()
        assert (info.backbone.name, info.engine_info.name) == (kit.backbone.name, "reference")
        assert (tmp_path / "data").is_dir()
        status, log = process.stop(signal.SIGTERM)
    finally:
        running.kill()
        running.communicate(timeout=PATIENCE_S)
    assert status == 0
    assert "Traceback" not in log
