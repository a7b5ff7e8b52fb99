from __future__ import annotations

import os
from pathlib import Path

import pytest

from lensmount_server.engine.cores import cores

HERE = 64


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(HERE)))


def machine(folder: Path, groups: str, **files: str) -> Path:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = folder / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cfs", "cpu.cfs")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("quota", "count"),
    [("400000 100000", 4), ("250000 100000", 3), ("10000 100000", 1), ("max 100000", HERE), ("9900000 100000", HERE)],
)
def test_a_container_of_cgroups_v2(tmp_path: Path, quota: str, count: int) -> None:
    assert cores(machine(tmp_path, "0::/\n", cpu_max=quota + "\n")) == count


def test_the_tightest_of_the_groups_above_counts(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        "0::/pod/server\n",
        cpu_max="max 100000\n",
        pod__cpu_max="200000 100000\n",
        pod__server__cpu_max="800000 100000\n",
    )
    assert cores(root) == 2


@pytest.mark.parametrize(("quota", "count"), [("150000", 2), ("-1", HERE)])
def test_cgroups_v1(tmp_path: Path, quota: str, count: int) -> None:
    groups = "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n"
    own = {"cpu,cpuacct__docker__x__cfs_quota_us": quota, "cpu,cpuacct__docker__x__cfs_period_us": "100000\n"}
    assert cores(machine(tmp_path, groups, **own)) == count


@pytest.mark.parametrize("groups", ["", "0::/gone\n", "0::/../other\n"])
def test_where_nothing_is_said_all_cores_count(tmp_path: Path, groups: str) -> None:
    assert cores(machine(tmp_path, groups)) == HERE
    assert cores(tmp_path / "no such machine") == HERE
