"""Policies from files: TOML and YAML, with errors that name file, line, column and field."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, cast

from pydantic import ValidationError

from jubako._lib.text import printable
from jubako.errors import InvalidPolicyError
from jubako.policy._toml_lines import TooDeepError, toml_places
from jubako.policy._yaml_nodes import YamlRefusedError, read_yaml
from jubako.policy.model import Policy
from jubako.policy.schema import known_fields, policy_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from jubako.policy._toml_lines import Path as FieldPath
    from jubako.policy._toml_lines import Place
    from jubako.policy.schema import JsonSchema

__all__ = ["Format", "invalid_policy", "load_policy", "loads_policy"]

Format = Literal["toml", "yaml"]

_LARGEST: Final = 1024 * 1024
_MOST_PROBLEMS: Final = 20
_MOST_EXPLAINED: Final = 200
_PLAINER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "greater than or equal to": "at least",
        "less than or equal to": "at most",
        "greater than": "more than",
        "a valid dictionary": "a table",
        "a valid tuple": "an array",
        "a valid": "a",
        "a integer": "an integer",
    }
)
_FORMATS: Final[Mapping[str, Format]] = MappingProxyType({".toml": "toml", ".yaml": "yaml", ".yml": "yaml"})
_TOML_PLACE: Final = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class _Problem:
    text: str
    field: str = ""
    place: Place | None = None

    def sentence(self, name: str) -> str:
        where = ":".join([name, *(str(number) for number in self.place or ())])
        return f"{where}: {self.field}: {self.text}" if self.field else f"{where}: {self.text}"

    def facts(self) -> dict[str, object]:
        line, column = self.place or (None, None)
        return {"field": self.field, "line": line, "column": column, "message": self.text}


def load_policy(path: Path | str) -> Policy:
    """Return the policy in a ``.toml``, ``.yaml`` or ``.yml`` file of at most 1 MiB.

    Raises InvalidPolicyError naming every problem with its place, and MissingExtraError for YAML
    without PyYAML.
    """
    path = Path(path)
    name = printable(str(path))
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise _invalid(name, [_Problem("unknown kind of file; write the policy as .toml, .yaml or .yml")])
    try:
        # Not blocking, so that a pipe in place of the file can't hang us; only regular files are read.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _invalid(name, [_Problem("not a regular file")])
            with open(descriptor, "rb", closefd=False) as file:
                raw = file.read(_LARGEST + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _invalid(name, [_Problem(f"can't be read: {error.strerror}")]) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise _invalid(name, [_Problem("not UTF-8", place=(line, column))]) from None
    return loads_policy(text, form, name)


def loads_policy(text: str, form: Format, name: str = "policy") -> Policy:
    """Return the policy in ``text``; ``name`` stands for the file in errors. Raises as ``load_policy``."""
    if len(text) > _LARGEST:
        raise _invalid(name, [_Problem(f"larger than {_LARGEST // 1024} KiB")])
    data, places = _read_toml(text, name) if form == "toml" else _read_yaml(text, name)
    if not isinstance(data, dict):
        raise _invalid(name, [_Problem("not a table of policy clauses")])
    if "schema_version" not in data:
        raise _invalid(name, [_Problem("missing; begin the file with schema_version = 1", "schema_version", (1, 1))])
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise invalid_policy(error, name, places) from None


def _read_toml(text: str, name: str) -> tuple[object, Mapping[FieldPath, Place]]:
    try:
        places = toml_places(text)  # first, because it refuses what tomllib would take for ever to read
        return tomllib.loads(text), places
    except TooDeepError as error:
        raise _invalid(name, [_Problem(str(error), place=error.place)]) from None
    except RecursionError:
        raise _invalid(name, [_Problem("nested too deeply")]) from None
    except ValueError as error:  # TOMLDecodeError is one; a number too long to convert is another
        message = str(error)
        match = _TOML_PLACE.search(message)
        place = (int(match[1]), int(match[2])) if match and match[1] else None
        if match and not match[1]:
            place = (text.count("\n") + 1, len(text) - text.rfind("\n"))
        problem = _Problem(message[: match.start()] if match else message, place=place)
        raise _invalid(name, [problem]) from None


def _read_yaml(text: str, name: str) -> tuple[object, Mapping[FieldPath, Place]]:
    try:
        return read_yaml(text)
    except YamlRefusedError as error:
        raise _invalid(name, [_Problem(str(error), place=error.place)]) from None


def invalid_policy(
    error: ValidationError, name: str = "policy", places: Mapping[FieldPath, Place] | None = None
) -> InvalidPolicyError:
    """Return what pydantic found wrong as one error that names every field, with its place where known."""
    found = error.errors(include_url=False, include_input=False)
    schema = policy_schema()
    problems = [_explain(item, places or {}, schema) for item in found[:_MOST_EXPLAINED]]
    problems.sort(key=lambda item: item.place or (0, 0))
    return _invalid(name, problems, len(found))


def _explain(item: ErrorDetails, places: Mapping[FieldPath, Place], schema: JsonSchema) -> _Problem:
    context = item.get("ctx", {})
    given = context.get("place")
    path = cast("FieldPath", given) if isinstance(given, tuple) else _in_file(item["loc"])
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        text = "unknown field" + _suggestion(path, schema)
    elif item["type"] == "missing":
        text = "missing"
    elif text.startswith("Input should be"):
        text = "should be" + text.removeprefix("Input should be")
        for long, short in _PLAINER.items():
            text = text.replace(long, short)
    return _Problem(printable(text, 600), _spell(path), _nearest(path, places))


def _in_file(location: tuple[int | str, ...]) -> FieldPath:
    """Drop what pydantic puts into a location and no file has: tags of unions, marks of keys and types."""
    path: FieldPath = ()
    for part in location:
        if part == "[key]":
            break
        if path[:1] == ("relaxations",) and len(path) == 2 and part in {"accept-weaker", "writable-mount"}:
            continue
        if path[:1] == ("driver_options",) and part in {"list", "dict", "str", "int", "float", "bool", "nullable"}:
            continue
        path += (part,)
    return path


def _suggestion(path: FieldPath, schema: JsonSchema) -> str:
    fields = known_fields(schema, path[:-1])
    near = get_close_matches(str(path[-1]), fields, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(fields)}" if fields else ""


def _nearest(path: FieldPath, places: Mapping[FieldPath, Place]) -> Place | None:
    """Return the place of ``path`` or of what encloses it."""
    for length in range(len(path), 0, -1):
        place = places.get(path[:length])
        if place is not None:
            return place
    return None


def _spell(path: FieldPath) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{printable(part, 80)}"'
            text += f".{word}" if text else word
    return text


def _invalid(name: str, problems: list[_Problem], total: int = 0) -> InvalidPolicyError:
    shown = problems[:_MOST_PROBLEMS]
    total = max(total, len(problems))
    sentences = [item.sentence(name) for item in shown]
    if total > len(shown):
        sentences.append(f"{name}: and {total - len(shown)} more")
    head = sentences[0] if total == 1 else "\n  ".join([f"{name}: {total} problems", *sentences])
    facts = [item.facts() for item in shown]
    first = {key: facts[0][key] for key in ("line", "column", "field")}
    return InvalidPolicyError(head, details={"file": name, **first, "problems": facts})
