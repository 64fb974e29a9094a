"""YAML read node by node: plain data and the place of each key, nothing else.

The loader makes no objects at all (tags, anchors, aliases and merge keys are refused), and plain
scalars follow the YAML 1.2 core schema, so that ``egress: off`` is the word and not a boolean.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako.errors import MissingExtraError
from jubako.policy._toml_lines import DEEPEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yaml import Event

    from jubako.policy._toml_lines import Path, Place

__all__ = ["YamlRefusedError", "read_yaml"]

_MOST_EVENTS: Final = 20_000
_INT: Final = re.compile(r"[-+]?[0-9]{1,400}")
_BASED: Final = re.compile(r"0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: Final = MappingProxyType(
    {
        **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
        **dict.fromkeys(("true", "True", "TRUE"), True),
        **dict.fromkeys(("false", "False", "FALSE"), False),
    }
)
_TAGS: Final = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map"))


class YamlRefusedError(ValueError):
    """The text is no YAML that a policy may be written in; ``place`` is where, if known."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.place = place


def read_yaml(text: str) -> tuple[object, dict[Path, Place]]:
    """Return the document as plain data, and the place of every key and element.

    Raises YamlRefusedError, and MissingExtraError without PyYAML.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("YAML policies need PyYAML", hint="pip install 'jubako[yaml]'") from error
    try:
        reader = _Reader(yaml.parse(text, Loader=yaml.BaseLoader))
        return reader.document(), reader.places
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise YamlRefusedError(str(problem), (mark.line + 1, mark.column + 1) if mark else None) from None


class _Reader:
    """Builds data from parser events as they come, so that a bomb is refused before it grows."""

    def __init__(self, events: Iterator[Event]) -> None:
        self.places: dict[Path, Place] = {}
        self._events = events
        self._count = 0

    def document(self) -> object:
        import yaml

        found: list[object] = []
        while not isinstance(event := self._next(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                if found:
                    raise YamlRefusedError("a second document", _place(event))
                found.append(self._value(self._next(), (), 0))
        return found[0] if found else None

    def _next(self) -> Event:
        self._count += 1
        event = next(self._events)
        if self._count > _MOST_EVENTS:
            raise YamlRefusedError("too many entries for a policy", _place(event))
        if getattr(event, "anchor", None):
            raise YamlRefusedError("anchors and aliases are not allowed", _place(event))
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _TAGS:
            raise YamlRefusedError("tags are not allowed", _place(event))
        return event

    def _value(self, event: Event, path: Path, depth: int) -> object:
        import yaml

        self.places.setdefault(path, _place(event))
        if depth > DEEPEST:
            msg = f"nested more than {DEEPEST} deep"
            raise YamlRefusedError(msg, _place(event))
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[object] = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                items.append(self._value(item, (*path, len(items)), depth + 1))
            return items
        text = str(getattr(event, "value", ""))
        return text if getattr(event, "style", None) else _plain(text)

    def _mapping(self, path: Path, depth: int) -> dict[str, object]:
        import yaml

        found: dict[str, object] = {}
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise YamlRefusedError("a key that is not a plain word", _place(key))
            name = str(key.value)
            if name in found:
                msg = f"{name!r} stands here twice"
                raise YamlRefusedError(msg, _place(key))
            if name == "<<":
                raise YamlRefusedError("merge keys are not allowed", _place(key))
            self.places[*path, name] = _place(key)
            found[name] = self._value(self._next(), (*path, name), depth + 1)
        return found


def _place(event: Event) -> Place:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _plain(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) or _SPECIAL.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
