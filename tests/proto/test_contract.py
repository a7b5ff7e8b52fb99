"""The wire contract: held against a committed snapshot, and documented where it needs words."""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

import lensmount

PROTOS = sorted((Path(lensmount.__file__).parent / "v1").glob("*.proto"))
SNAPSHOT = Path(__file__).with_name("contract.txt")
UPDATE = "LENSMOUNT_UPDATE_CONTRACT"
ADVICE = f"""The wire contract changed.

A line that is gone or different is a breaking change: clients and servers of other releases
misread each other. A line that is only new is safe. When the change is meant, run
    {UPDATE}=1 pytest tests/proto/test_contract.py
commit contract.txt, and say in CHANGELOG.md what breaks.
"""


def load(path: Path) -> FileDescriptorProto:
    module = importlib.import_module(f"lensmount.v1.{path.stem}_pb2")
    return FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


def describe(file: FileDescriptorProto) -> Iterator[str]:
    """A file's contract, one fact a line."""
    yield f"file {file.name} ({file.syntax})"
    for message in file.message_type:
        yield from describe_message(message, file.package)
    for enum in file.enum_type:
        yield from describe_enum(enum, file.package)
    for service in file.service:
        yield from describe_service(service, file.package)


def describe_message(message: DescriptorProto, scope: str) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield f"message {name}"
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    for field in sorted(message.field, key=lambda field: field.number):
        yield f"  {field.number} {field.name}: {describe_field(field, message, maps)}"
    for reserved in message.reserved_range:
        yield f"  reserved {reserved.start} to {reserved.end - 1}"
    yield from (f"  reserved {word}" for word in message.reserved_name)
    for nested in message.nested_type:
        if nested.name not in maps:
            yield from describe_message(nested, name)
    for enum in message.enum_type:
        yield from describe_enum(enum, name)


def describe_field(field: FieldDescriptorProto, message: DescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry:
        key, value = entry.field
        return f"map<{kind(key)}, {kind(value)}>"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind(field)}"
    if field.proto3_optional:
        return f"optional {kind(field)}"
    return f"{kind(field)} (oneof {message.oneof_decl[field.oneof_index].name})" if in_oneof(field) else kind(field)


def in_oneof(field: FieldDescriptorProto) -> bool:
    return field.HasField("oneof_index")


def kind(field: FieldDescriptorProto) -> str:
    scalar = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return field.type_name.removeprefix(".") or scalar


def describe_enum(enum: EnumDescriptorProto, scope: str) -> Iterator[str]:
    yield f"enum {scope}.{enum.name}"
    yield from (f"  {value.number} {value.name}" for value in enum.value)


def describe_service(service: ServiceDescriptorProto, scope: str) -> Iterator[str]:
    yield f"service {scope}.{service.name}"
    for method in service.method:
        asks = f"{'stream ' if method.client_streaming else ''}{method.input_type.removeprefix('.')}"
        answers = f"{'stream ' if method.server_streaming else ''}{method.output_type.removeprefix('.')}"
        yield f"  rpc {method.name}({asks}) returns ({answers})"


def contract() -> str:
    return "\n".join(line for path in PROTOS for line in (*describe(load(path)), "")) + "\n"


def test_the_contract_is_the_committed_one() -> None:
    current = contract()
    if os.environ.get(UPDATE):
        SNAPSHOT.write_text(current)
    committed = SNAPSHOT.read_text()
    diff = difflib.unified_diff(committed.splitlines(), current.splitlines(), "committed", "current", n=2, lineterm="")
    assert committed == current, ADVICE + "\n".join(diff)


def test_the_contract_covers_every_proto_file() -> None:
    assert [path.stem for path in PROTOS] == ["adapters", "common", "inference", "sources"]
    assert contract().count("file lensmount/v1/") == len(PROTOS)


def message_of(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def change_number(file: FileDescriptorProto) -> None:
    message_of(file, "VideoPacket").field[1].number = 9


def change_name(file: FileDescriptorProto) -> None:
    message_of(file, "VideoPacket").field[1].name = "pts_us"


def change_type(file: FileDescriptorProto) -> None:
    message_of(file, "VideoPacket").field[1].type = FieldDescriptorProto.TYPE_INT32


def change_label(file: FileDescriptorProto) -> None:
    message_of(file, "VideoPacket").field[1].label = FieldDescriptorProto.LABEL_REPEATED


def change_message_type(file: FileDescriptorProto) -> None:
    message_of(file, "InferRequest").field[1].type_name = ".lensmount.v1.RawFrame"


def change_presence(file: FileDescriptorProto) -> None:
    message_of(file, "VideoPacket").field[1].proto3_optional = True


def leave_the_oneof(file: FileDescriptorProto) -> None:
    message_of(file, "InferRequest").field[1].ClearField("oneof_index")


def remove_field(file: FileDescriptorProto) -> None:
    del message_of(file, "VideoPacket").field[1]


def remove_message(file: FileDescriptorProto) -> None:
    file.message_type.remove(message_of(file, "VideoPacket"))


def change_enum_value(file: FileDescriptorProto) -> None:
    file.enum_type[0].value[1].number = 7


def rename_method(file: FileDescriptorProto) -> None:
    file.service[0].method[0].name = "Predict"


def stream_less(file: FileDescriptorProto) -> None:
    method = next(method for method in file.service[0].method if method.server_streaming)
    method.server_streaming = False


@pytest.mark.parametrize(
    "change",
    [
        change_number,
        change_name,
        change_type,
        change_label,
        change_message_type,
        change_presence,
        leave_the_oneof,
        remove_field,
        remove_message,
        change_enum_value,
        rename_method,
        stream_less,
    ],
)
def test_the_snapshot_would_notice(change: Callable[[FileDescriptorProto], None]) -> None:
    path = next(path for path in PROTOS if path.stem == "inference")
    file = load(path)
    before = list(describe(file))
    change(file)
    assert list(describe(file)) != before


@dataclass(frozen=True)
class Declared:
    """Something that a proto file declares; `documented` when a comment stands above it or behind it."""

    kind: str
    name: str
    type: str = ""
    documented: bool = False


BLOCK = re.compile(r"(message|enum|service|oneof)\s+(\w+)\s*\{")
RPC = re.compile(r"(rpc)\s+(\w+)\s*\(")
FIELD = re.compile(r"(?:optional\s+|repeated\s+)?(map<[^>]+>|[\w.]+)\s+(\w+)\s*=\s*\d+\s*;")
VALUE = re.compile(r"(\w+)\s*=\s*\d+\s*;")

# Names that need no words: those of the glossary, and those that carry their unit.
GLOSSARY = {"task", "alias", "version", "name", "label", "labels", "backbone", "width", "height"}
UNITS = ("_ms", "_ns", "_bytes")


def declarations(text: str) -> Iterator[Declared]:
    scope: list[str] = []
    above = ""
    for line in map(str.strip, text.splitlines()):
        documented = above.startswith("//") or "//" in line
        above = line
        if block := BLOCK.match(line):
            yield Declared(block[1], ".".join([*scope, block[2]]), "", documented)
            scope += [] if line.endswith("}") else [block[2]]
        elif line.startswith("}"):
            scope.pop()
        elif rpc := RPC.match(line):
            yield Declared("rpc", ".".join([*scope, rpc[2]]), "", documented)
        elif field := FIELD.match(line):
            yield Declared("field", ".".join([*scope, field[2]]), field[1], documented)
        elif value := VALUE.match(line):
            yield Declared("value", ".".join([*scope, value[1]]), "", documented)


def needs_words(declared: Declared) -> bool:
    """Whether a comment must say what this is, because nothing else does.

    An rpc speaks for its request and its response, a message or an enum for the fields of its type.
    """
    name = declared.name.rpartition(".")[2]
    match declared.kind:
        case "message":
            return not name.endswith(("Request", "Response"))
        case "field":
            return name not in GLOSSARY and not name.endswith(UNITS) and not declared.type[0].isupper()
        case "value":
            return not name.endswith("_UNSPECIFIED")
    return declared.kind != "oneof"


def undocumented(text: str) -> list[Declared]:
    return [each for each in declarations(text) if needs_words(each) and not each.documented]


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.stem)
def test_what_needs_words_has_them(path: Path) -> None:
    assert undocumented(path.read_text()) == [], "write a comment above each"


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.stem)
def test_every_declaration_was_read(path: Path) -> None:
    read = {each.name.rpartition(".")[2] for each in declarations(path.read_text())}
    facts = (line.split() for line in describe(load(path)) if line.startswith("  "))
    assert {re.split(r"[:(]", fact[1])[0] for fact in facts} <= read


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.stem)
def test_a_comment_that_goes_missing_is_noticed(path: Path) -> None:
    text = re.sub(r"//.*", "", path.read_text())
    expected = [each for each in declarations(text) if needs_words(each)]
    assert len(expected) > 5
    assert undocumented(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("service Vision {}", ["Vision"]),
        ("// Sees.\nservice Vision {\n  rpc See(A) returns (B);\n}", ["Vision.See"]),
        ("message Lens {}", ["Lens"]),
        ("// Glass.\nmessage Lens {\n  uint32 power = 1;\n  uint32 width = 2;\n}", ["Lens.power"]),
        ("// Glass.\nmessage Lens {\n  repeated string coatings = 1;\n  Mount mount = 2;\n}", ["Lens.coatings"]),
        ("// Glass.\nmessage Lens {\n  // Dioptres.\n\n  double power = 1;\n}", ["Lens.power"]),
        ("// Glass.\nmessage Lens {\n  // Dioptres.\n  double power = 1;\n  double focus_ms = 2;\n}", []),
        ("enum Mount {\n  MOUNT_UNSPECIFIED = 0;\n  MOUNT_SCREW = 1;\n}", ["Mount", "Mount.MOUNT_SCREW"]),
        ("// How.\nenum Mount {\n  MOUNT_SCREW = 1; // M42\n}", []),
        ("message SeeRequest {\n  oneof picture {\n    bytes raw = 1;\n  }\n}", ["SeeRequest.picture.raw"]),
    ],
)
def test_the_rule_on_small_files(text: str, found: list[str]) -> None:
    assert [each.name for each in undocumented(text)] == found
