"""What the files of deploy/ say is true of the code: variables, options, ports, settings, versions, times."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import deployed
from lensmount_server.app import ANSWERING, GRACE_S, SERVICES
from lensmount_server.services.health import WHOLE
from lensmount_server.settings import Settings, read
from lensmount_server.settings.layers import CONFIG_VARIABLE, FIELDS, variable

VERSION = deployed.PROJECT["version"]
IMAGE = f"lensmount:{VERSION}"
SETTINGS = {variable(name) for name in FIELDS} | {CONFIG_VARIABLE}


@pytest.fixture
def in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in deployed.image_environment().items():
        if name != "PATH":
            monkeypatch.setenv(name, value)


def configured(text: str, tmp_path: Path) -> Settings:
    file = tmp_path / "lensmount.toml"
    file.write_text(text)
    reading = read({}, file)
    assert reading.problems == ()
    return reading.settings


FILES = {
    "compose.yaml": deployed.TOML.read_text(),
    "kubernetes.yaml": deployed.kubernetes("ConfigMap")["data"]["lensmount.toml"],
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.usefixtures("in_the_image")
def test_settings_are_those_of_the_server(file: str, tmp_path: Path) -> None:
    held = configured(FILES[file], tmp_path)
    assert (held.address, held.metrics_address) == ("0.0.0.0:50051", "0.0.0.0:9464")
    assert held.data_dir == Path("/data")
    assert "secret" not in FILES[file]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.usefixtures("in_the_image")
def test_what_is_left_to_the_reader_would_work_too(file: str, tmp_path: Path) -> None:
    """Lines that are commented out are settings as well."""
    text = re.sub(r"^# ([a-z_]+ = )", r"\1", FILES[file], flags=re.MULTILINE)
    assert text != FILES[file]
    configured(text, tmp_path)


@pytest.mark.usefixtures("in_the_image")
def test_a_setting_that_is_none_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        configured(f"{FILES['kubernetes.yaml']}\nhot_adapter = 3\n", tmp_path)


@pytest.mark.parametrize("path", [*deployed.FILES, deployed.DOCUMENT], ids=lambda path: path.name)
def test_variables_are_settings(path: Path) -> None:
    assert set(re.findall(r"LENSMOUNT_[A-Z_]+", path.read_text())) <= SETTINGS


COMMANDS = list(deployed.command_lines())


def test_every_file_has_a_command() -> None:
    places = {place for place, _ in COMMANDS}
    assert places >= {"Containerfile CMD", "Containerfile HEALTHCHECK", "compose.yaml", "kubernetes.yaml", "deploy.md"}
    assert ["serve"] in [words for place, words in COMMANDS if place == "lensmount.service"]


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[f"{place}: {' '.join(words)}" for place, words in COMMANDS])
def test_commands_are_taken(place: str, words: list[str]) -> None:
    assert deployed.parse(words).command.name == words[0] or words[0] == "config"


@pytest.mark.parametrize("words", [["serve", "--adress", "x"], ["serv"], ["serve", "--device", "gpu"]])
def test_commands_that_are_not_taken_are_noticed(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        deployed.parse(words)


def test_one_version_everywhere() -> None:
    assert deployed.compose()["services"]["lensmount"]["image"] == IMAGE
    assert deployed.pod()["containers"][0]["image"] == IMAGE
    told = re.findall(r"\blensmount:([0-9][0-9.]*)", deployed.CONTAINERFILE.read_text() + deployed.DOCUMENT.read_text())
    assert set(told) == {VERSION}


def images() -> Iterator[str]:
    yield from (each["image"] for each in deployed.compose()["services"].values())
    yield from (each["image"] for each in deployed.pod()["containers"])
    yield next(rest.partition("=")[2] for name, rest in deployed.instructions() if name == "ARG" and "BASE=" in rest)


@pytest.mark.parametrize("image", [*images()])
def test_images_have_a_tag_that_says_something(image: str) -> None:
    name, colon, tag = image.rpartition(":")
    assert name
    assert colon
    assert re.match(r"[0-9]", tag)


def test_nobody_is_root() -> None:
    user = next(rest for name, rest in deployed.instructions() if name == "USER")
    uid, gid = map(int, user.split(":"))
    security = deployed.pod()["securityContext"]
    assert uid > 0
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (uid, gid, gid)
    assert security["runAsNonRoot"] is True
    assert any(f"--uid {uid}" in rest and f"--gid {gid}" in rest for name, rest in deployed.instructions())
    assert deployed.directives("DynamicUser") == ["yes"]
    assert "user" not in deployed.compose()["services"]["lensmount"]


def test_what_is_written_is_a_volume_where_the_root_is_read_only() -> None:
    (container,) = deployed.pod()["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    service = deployed.compose()["services"]["lensmount"]
    assert service["read_only"] is True
    targets = {volume.split(":")[-1] for volume in service["volumes"]} | {
        each.partition(":")[0] for each in service["tmpfs"]
    }
    environment = deployed.image_environment()
    for name in ("LENSMOUNT_DATA_DIR", "XDG_CACHE_HOME", "HF_HOME", "TRITON_CACHE_DIR"):
        root = "/" + environment[name].split("/")[1]
        assert root in mounts
        assert root in targets
    assert "/tmp" in mounts & targets  # noqa: S108 - a path in the container


def test_ports_are_one_everywhere() -> None:
    exposed = next(rest.split() for name, rest in deployed.instructions() if name == "EXPOSE")
    (container,) = deployed.pod()["containers"]
    ports = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
    assert exposed == [ports["grpc"], ports["metrics"]] == ["50051", "9464"]
    published = deployed.compose()["services"]["lensmount"]["ports"]
    assert [each.rpartition(":")[2] for each in published] == exposed
    assert {str(container[probe]["grpc"]["port"]) for probe in PROBES} == {ports["grpc"]}
    labels = deployed.kubernetes("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert labels["prometheus.io/port"] == ports["metrics"]
    assert {str(each["port"]): each["targetPort"] for each in deployed.kubernetes("Service")["spec"]["ports"]} == {
        "50051": "grpc",
        "9464": "metrics",
    }


PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def test_probes_ask_for_a_service_that_tells_its_health() -> None:
    """Which follow the engine, and which go on without it, test_info asks a real one."""
    (container,) = deployed.pod()["containers"]
    asked = {probe: container[probe]["grpc"].get("service", WHOLE) for probe in PROBES}
    assert asked["readinessProbe"] in {WHOLE, *ANSWERING}
    others = set(SERVICES) - set(ANSWERING)
    assert {asked["startupProbe"], asked["livenessProbe"]} <= others


def folder_of_compose(target: str) -> Path:
    """The folder of the host that is mounted there where no variable names another; it begins at the file's own."""
    volumes = [each for service in deployed.compose()["services"].values() for each in service.get("volumes", ())]
    (found,) = [match for each in volumes if (match := re.fullmatch(rf"\$\{{\w+:-(.+)\}}:{target}(:ro)?", each))]
    return (deployed.DEPLOY / found[1]).resolve()


def test_folders_are_those_that_the_commands_beside_them_name() -> None:
    """All commands run in the root of a checkout."""
    told = [deployed.COMPOSE.read_text(), deployed.TOML.read_text()]
    exported = [each for text in told for each in re.findall(r"`lensmount export triton (\S+)`", text)]
    assert len(exported) == 2
    assert {deployed.ROOT / each for each in exported} == {folder_of_compose("/models")}
    (videos,) = re.findall(r"--volume (\S+):/videos:ro", deployed.DOCUMENT.read_text())
    assert (deployed.ROOT / videos).resolve() == folder_of_compose("/videos")


def test_paths_within_the_checkout_are_there() -> None:
    services = deployed.compose()["services"].values()
    built = [service["build"] for service in services if "build" in service]
    assert built
    for build in built:
        context = (deployed.DEPLOY / build["context"]).resolve()
        assert context == deployed.ROOT
        assert (context / build["dockerfile"]).is_file()
    assert (deployed.DEPLOY / deployed.compose()["configs"]["lensmount"]["file"]).is_file()
    for path in (*deployed.FILES, deployed.DOCUMENT):
        named = re.findall(r"(?<![\w/.])(?:deploy/[\w.]+\w|constraints\.txt)", path.read_text())
        assert all((deployed.ROOT / each).is_file() for each in named), named


def test_nothing_is_published_beyond_loopback() -> None:
    services = deployed.compose()["services"]
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert deployed.kubernetes("Service")["spec"].get("type", "ClusterIP") == "ClusterIP"


def seconds(text: object) -> float:
    return float(str(text).removesuffix("s"))


def test_there_is_time_for_an_orderly_stop() -> None:
    times = [
        deployed.pod()["terminationGracePeriodSeconds"],
        deployed.compose()["services"]["lensmount"]["stop_grace_period"],
        *deployed.directives("TimeoutStopSec"),
    ]
    assert len(times) == 3
    assert all(seconds(each) >= 4 * GRACE_S for each in times)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    else:
        yield str(value)


def test_no_password_is_written_down() -> None:
    asked = [text for text in strings(deployed.compose()) if "PASSWORD" in text]
    assert asked
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", text) for text in asked)
    (password,) = [each for each in deployed.pod()["containers"][0]["env"] if each["name"] == "PGPASSWORD"]
    assert "value" not in password
    for path in deployed.FILES:
        assert not re.search(r"://[^/\s:@]+:[^@\s]+@", path.read_text())


def test_one_server_has_a_data_directory_at_a_time() -> None:
    deployment = deployed.kubernetes("Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    assert "replicas" not in str(deployed.compose()["services"]["lensmount"])


def test_services_of_kubernetes_are_not_told_in_variables() -> None:
    assert deployed.pod()["enableServiceLinks"] is False


def test_names_within_kubernetes_point_at_something() -> None:
    objects = [each for each in yaml.safe_load_all(deployed.KUBERNETES.read_text()) if each]
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    volumes = {each["name"]: each for each in deployed.pod()["volumes"]}
    (container,) = deployed.pod()["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    claims = {
        each["persistentVolumeClaim"]["claimName"] for each in volumes.values() if "persistentVolumeClaim" in each
    }
    assert {("PersistentVolumeClaim", claim) for claim in claims} <= names
    assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in names
    labels = deployed.kubernetes("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert deployed.kubernetes("Service")["spec"]["selector"].items() <= labels.items()
    assert deployed.kubernetes("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_a_setting_that_can_not_work_does_not_start_again_and_again() -> None:
    """2 is how `lensmount serve` ends for a setting that can not work: test_commands.py looks."""
    assert deployed.directives("RestartPreventExitStatus") == ["2"]


def test_every_file_says_what_was_tried_of_it() -> None:
    for path in (deployed.CONTAINERFILE, deployed.COMPOSE, deployed.UNIT, deployed.KUBERNETES):
        assert re.search(r"^# TRIED: .*^# NOT TRIED: ", path.read_text(), re.MULTILINE | re.DOTALL)
