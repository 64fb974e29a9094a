"""The two tables of the protocol are one, and both codecs agree on every message."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from jubako.agent import wire as inside
from jubako.guest import wire as outside
from jubako.guest.wire import Field, Message, Rule, ViolationError, decode, encode, frame

AGENT = Path(inside.__file__).parent
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "agent-protocol.md"
_TOOL_BOUNDS = ("MAX_TOOL_NAME", "MAX_TOOL_REQUEST", "MAX_TOOL_ANSWER")
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
    for name in ("PROTOCOL", "MAX_DATA", "MAX_GUEST_PAYLOAD", "MAX_HOST_PAYLOAD", "PATH_MAX", *_TOOL_BOUNDS):
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


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading line of that text."""
    lines = PAGE.read_text(encoding="utf-8").split(heading, 1)[1].split("\n")[1:]
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        if not set(line) <= set("|-"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def _words(message: Message) -> str:
    if message in {Message.DATA, Message.ERRDATA}:
        return f"1 to {outside.MAX_DATA} raw bytes"
    fields = outside.SCHEMAS[message]
    return (
        ", ".join(f"`{name}` {type_}" + (f" \u2264 {bound}" if bound else "") for name, type_, bound in fields)
        or "empty"
    )


def test_the_page_has_every_message() -> None:
    both = {Message.DATA, Message.EOF, Message.CREDIT, Message.DISCARD}
    expected = [
        [
            f"`0x{message:02x}`",
            f"`{message.name}`",
            "both" if message in both else "guest" if message in outside.GUEST_MESSAGES else "host",
            _words(message),
        ]
        for message in Message
    ]
    assert _rows("| type | message | from | payload |") == expected


def test_the_page_has_every_rule() -> None:
    assert {row[0].strip("`") for row in _rows("| rule | broken by |")} == {str(rule) for rule in Rule}


def test_the_page_has_every_way_to_end() -> None:
    ends = [row[0] for row in _rows("| `END` kind | meaning | who may end like that |")]
    assert ends == [f"{kind.value} {kind.name.lower().replace('_', ' ')}" for kind in outside.EndKind]
