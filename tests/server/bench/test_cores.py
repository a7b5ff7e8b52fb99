from __future__ import annotations

import os
import subprocess
import sys
import time

from lensmount_server.bench.cores import cpu_s, descendants

BUSY = "import time, os\nos.fork()\nwhile time.process_time() < 0.3: pass\ntime.sleep(60)"


def test_what_a_process_and_its_children_have_computed() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                children = descendants(process.pid)
                if children and min(map(cpu_s, [process.pid, *children])) >= 0.25:
                    break
                time.sleep(0.05)
            assert len(children) == 1
            assert {process.pid, *children} <= {*descendants(os.getpid())}
            assert 0.25 <= cpu_s(process.pid) < 30
        finally:
            os.killpg(process.pid, 9)


def test_a_process_that_is_gone_has_used_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert cpu_s(process.pid) == 0.0
    assert descendants(process.pid) == []
