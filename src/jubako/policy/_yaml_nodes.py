"""YAML read node by node: plain data and the place of each key, nothing else.

The loader makes no objects at all (tags, anchors, aliases and merge keys are refused), and plain
scalars follow the YAML 1.2 core schema, so that ``egress: off`` is the word and not a boolean.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yaml import Event, MappingNode, Node

    from jubako.policy._toml_lines import Path, Place

__all__ = ["YamlRefusedError", "read_yaml"]

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
        _check_events(yaml.parse(text, Loader=yaml.BaseLoader))
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise YamlRefusedError(str(problem), (mark.line + 1, mark.column + 1) if mark else None) from error
    except RecursionError:
        raise YamlRefusedError("nested too deeply") from None
    places: dict[Path, Place] = {}
    if node is None:
        return None, places
    try:
        return _value(node, (), places), places
    except RecursionError:
        raise YamlRefusedError("nested too deeply") from None


def _check_events(events: Iterator[Event]) -> None:
    """Refuse anchors and aliases before anything is built: they can make kilobytes mean gigabytes."""
    import yaml

    documents = 0
    for event in events:
        mark = event.start_mark
        place = (mark.line + 1, mark.column + 1) if mark else None
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise YamlRefusedError("a second document", place)
        if getattr(event, "anchor", None):
            raise YamlRefusedError("anchors and aliases are not allowed", place)
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _TAGS:
            raise YamlRefusedError("tags are not allowed", place)


def _place(node: Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _value(node: Node, path: Path, places: dict[Path, Place]) -> object:
    import yaml

    places.setdefault(path, _place(node))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, places)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), places) for index, item in enumerate(node.value)]
    text = str(node.value)
    return text if getattr(node, "style", None) else _plain(text)


def _mapping(node: MappingNode, path: Path, places: dict[Path, Place]) -> dict[str, object]:
    import yaml

    found: dict[str, object] = {}
    for key, item in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise YamlRefusedError("a key that is not a plain word", _place(key))
        name = str(key.value)
        if name in found:
            msg = f"{name!r} stands here twice"
            raise YamlRefusedError(msg, _place(key))
        if name == "<<":
            raise YamlRefusedError("merge keys are not allowed", _place(key))
        places[*path, name] = _place(key)
        found[name] = _value(item, (*path, name), places)
    return found


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
