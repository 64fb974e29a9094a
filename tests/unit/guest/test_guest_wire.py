"""The two tables of the protocol are one, and both codecs agree on every message."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from jubako.agent import wire as inside
from jubako.guest import wire as outside
from jubako.guest.wire import Field, Message, Rule, ViolationError, decode, encode, frame

AGENT = Path(inside.__file__).parent
SAMPLES: dict[str, tuple[Field, ...]] = {
    "u8": (0, 1),
    "u32": (0, 64),
    "u64": (0, 1, 2**40),
    "i64": (-5, 10**18),
    "bytes": (b"", b"a/\xff"),
    "str": ("", "\u00e9\u4e2d"),
    "list": ([], [b"", b"ab"]),
    "pairs": ([], [(b"a", b""), (b"", b"b")]),
    "u64s": ([], [0, 2**64 - 1]),
}


def test_tables_are_the_same() -> None:
    assert {int(kind): schema for kind, schema in outside.SCHEMAS.items()} == inside.SCHEMAS
    for message in Message:
        assert getattr(inside, message.name) == message
    for name in ("PROTOCOL", "MAX_DATA", "MAX_GUEST_PAYLOAD", "MAX_HOST_PAYLOAD", "PATH_MAX"):
        assert getattr(inside, name) == getattr(outside, name)
    for kind in outside.EndKind:
        assert getattr(inside, f"END_{kind.name}") == kind
    assert outside.HEADER.size == inside.HEADER


@pytest.mark.parametrize("message", [message for message in Message if message not in {Message.DATA, Message.ERRDATA}])
def test_codecs_agree(message: Message) -> None:
    schema = outside.SCHEMAS[message]
    for round_ in range(3):
        values: list[Field] = []
        for _, type_, bound in schema:
            sample = SAMPLES[type_][round_ % len(SAMPLES[type_])]
            values.append(min(sample, bound) if bound and isinstance(sample, int) else sample)
        payload = encode(message, values)
        assert payload == inside.encode(message, values)
        assert list(decode(message, payload)) == values
        assert inside.decode(message, payload) == values
        assert frame(message, 5, payload) == inside.frame(message, 5, payload)
        with pytest.raises(ViolationError) as caught:
            decode(message, payload + b"\0")
        assert caught.value.rule is Rule.MESSAGE_TRAILING
        with pytest.raises(inside.WireError):
            inside.decode(message, payload + b"\0")
        for cut in range(len(payload)):
            with pytest.raises(ViolationError):
                decode(message, payload[:cut])
            with pytest.raises(inside.WireError):
                inside.decode(message, payload[:cut])


def test_counts_are_checked_before_anything_is_made() -> None:
    with pytest.raises(ViolationError) as caught:
        decode(Message.READY, b"\xff\xff\xff\xff")
    assert caught.value.rule is Rule.MESSAGE_RANGE
    with pytest.raises(ViolationError) as caught:
        decode(Message.CONFIG, bytes(12) + b"\0\0\0\x40" + bytes(8))
    assert caught.value.rule is Rule.MESSAGE_MALFORMED


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (Message.STAT, (b"x" * 4097,)),
        (Message.CHMOD, (b"x", 0o10000)),
        (Message.CREDIT, (0, 2**32)),
        (Message.CREDIT, (0, -1)),
        (Message.READ, (b"x", 2**63, 0)),
    ],
)
def test_the_host_sends_nothing_out_of_bounds(message: Message, values: tuple[Field, ...]) -> None:
    with pytest.raises(ValueError, match=message.name):
        encode(message, values)


@pytest.mark.parametrize("path", sorted(AGENT.glob("*.py")), ids=lambda path: path.stem)
def test_agent_is_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    costly = {"json", "re", "enum", "signal", "socket", "subprocess", "ctypes", "typing", "dataclasses", "os", "struct"}
    for node in _runtime(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            imported = [node.module or ""]
        assert not costly.intersection(name.split(".")[0] for name in imported), f"{path.name}:{node.lineno}"


def _runtime(tree: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """Return the imports that are left when the type checker's are dropped."""
    found: list[ast.Import | ast.ImportFrom] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                found += _runtime(ast.Module([other], []))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        else:
            found += _runtime(node)
    return found
