"""Renders the generated part of reference pages from schemas and the catalogue of controls."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from jubako._lib.units import format_seconds, format_size
from jubako.policy import CONTROLS, Policy, summarize
from jubako.policy.presets import PRESETS, preset

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jubako.policy.schema import JsonSchema

GROUPS: Final = {
    "fs": "Files",
    "net": "Network",
    "syscall": "System calls",
    "process": "Processes",
    "resource": "Resources",
    "time": "Time",
    "tool": "Host functions",
    "observe": "Observation",
    "secret": "Secrets",
    "data": "Data",
}
PLAIN: Final = {
    "integer": "whole number",
    "string": "text",
    "boolean": "true or false",
    "object": "table",
    "null": "none",
}
PLURAL: Final = {"table": "tables", "text": "texts", "absolute path": "absolute paths"}


def policy(schema: JsonSchema) -> str:
    """Return the fields of a policy file, clause by clause, and the presets."""
    lines = ["## Top level", "", *fields(schema, schema, required="schema_version")]
    for name, node in schema["properties"].items():
        target = resolved(schema, node)
        if "properties" in target:
            lines += ["", f"## `[{name}]`", "", sentence(schema["$defs"][model_of(node)]), "", *fields(schema, target)]
    lines += ["", "## `[[files.mounts]]`", "", *section(schema, "Mount")]
    lines += ["", "## `[secrets.NAME]`", "", *section(schema, "SecretClause")]
    lines += ["", "## `[[relaxations]]`", "", "One of two kinds.", ""]
    for model in ("AcceptWeaker", "WritableMount"):
        kind = schema["$defs"][model]["properties"]["kind"]["const"]
        lines += [f'### `kind = "{kind}"`', "", *section(schema, model), ""]
    lines += ["## Presets", "", *presets()]
    return text(lines)


def section(root: JsonSchema, model: str) -> list[str]:
    """Return the description and the fields of one model."""
    node = root["$defs"][model]
    return [sentence(node), "", *fields(root, node)]


def presets() -> list[str]:
    """Return the presets with how each differs from the default."""
    plain = dict(facts(Policy()))
    rows = []
    for name, purpose in PRESETS.items():
        changes = [f"{label}: {value}" for label, value in facts(preset(name)) if plain.get(label) != value]
        rows.append((f"`{name}`", purpose, "<br>".join(changes) or "nothing"))
    return table(("Preset", "For", "Differs from the default in"), rows)


def facts(given: Policy) -> Iterable[tuple[str, str]]:
    """Yield the clauses of a policy in words, required levels included."""
    yield from summarize(given)
    for control, level in given.require.items():
        yield control, f"must be {level}"


def controls() -> str:
    """Return the catalogue of controls by group."""
    lines: list[str] = []
    for prefix, members in groupby(CONTROLS.values(), key=lambda item: item.id.partition(".")[0]):
        rows = [(f"`{item.id}`", item.title, item.stops, item.default.value) for item in members]
        lines += [f"## {GROUPS[prefix]}", "", *table(("Control", "Means", "Stops", "Required"), rows), ""]
    return text(lines[:-1])


def events(schema: JsonSchema) -> str:
    """Return the envelope and every type of event."""
    envelope = {name: node for name, node in schema["properties"].items() if name != "data"}
    lines = ["## Envelope", "", *fields(schema, {"properties": envelope, "required": list(envelope)}), ""]
    for reference in schema["properties"]["data"]["oneOf"]:
        node = resolved(schema, reference)
        name = node["properties"]["type"]["const"]
        own = {key: value for key, value in node["properties"].items() if key != "type"}
        lines += [
            f"## `{name}`",
            "",
            sentence(node),
            "",
            *fields(schema, {"properties": own, "required": list(own)}),
            "",
        ]
    return text(lines[:-1])


def fields(root: JsonSchema, node: JsonSchema, required: str = "") -> list[str]:
    """Return a table of the node's fields. Without any default or description those columns are left out."""
    needed = {*node.get("required", []), required}
    rows = []
    for name, field in node["properties"].items():
        default = "required" if name in needed else shown(field, resolved(root, field))
        rows.append((f"`{name}`", kind(root, field), default, field.get("description", "")))
    complete = all(row[2] == "required" for row in rows)
    described = any(row[3] for row in rows)
    columns = [0, 1, *(() if complete else (2,)), *((3,) if described else ())]
    titles = ("Field", "Type", "Default", "Meaning")
    return table([titles[at] for at in columns], [[row[at] for at in columns] for row in rows])


def shown(field: JsonSchema, target: JsonSchema) -> str:
    """Return a field's default in words."""
    value = field.get("default")
    if "properties" in target:
        return "see below"
    if value is None:
        return "none" if "default" in field else "empty"
    if value in ([], {}, ""):
        return "empty"
    unit = unit_of(field)
    if unit == "bytes":
        return format_size(int(value))
    if unit == "seconds":
        return format_seconds(float(value))
    return f"`{value}`"


def unit_of(field: JsonSchema) -> str:
    """Return ``bytes``, ``seconds`` or nothing, by how the field may be written."""
    options = [item for option in field.get("anyOf", ()) for item in (option, *option.get("anyOf", ()))]
    for option in options:
        if option.get("type") == "string" and "ms" in option.get("pattern", ""):
            return "seconds"
        if option.get("type") == "string" and "[KkMmGgTt]" in option.get("pattern", ""):
            return "bytes"
    return ""


def kind(root: JsonSchema, field: JsonSchema) -> str:
    """Return the type of a field in words."""
    node = resolved(root, field)
    if unit := unit_of(node):
        optional = any(option.get("type") == "null" for option in node["anyOf"])
        return f"{'size' if unit == 'bytes' else 'time'}{bounds(number_of(node), unit)}{' or none' if optional else ''}"
    if "const" in node or "enum" in node:
        choices = node.get("enum") or [node["const"]]
        return "control id" if len(choices) > 10 else " or ".join(f"`{item}`" for item in choices)
    if options := node.get("oneOf") or node.get("anyOf"):
        return " or ".join(dict.fromkeys(kind(root, option) for option in options))
    return container(root, node) or scalar(node)


def container(root: JsonSchema, node: JsonSchema) -> str:
    """Return the type of a list or table in words, or nothing."""
    if node.get("type") == "array":
        item = kind(root, node.get("items", {}))
        most = f", at most {node['maxItems']}" if "maxItems" in node else ""
        return f"list of {PLURAL.get(item, item)}{most}"
    if "patternProperties" in node or isinstance(node.get("additionalProperties"), dict):
        values = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
        item = kind(root, values)
        return f"table of {PLURAL.get(item, item)} by name"
    return "table" if "properties" in node else ""


def scalar(node: JsonSchema) -> str:
    """Return the type of a plain value in words."""
    if node.get("format") == "date-time":
        return "time in UTC"
    if str(node.get("pattern", "")).startswith("^/"):
        return "absolute path"
    name = str(node.get("type", "any value"))
    return PLAIN.get(name, name) + bounds(node, "")


def number_of(node: JsonSchema) -> JsonSchema:
    """Return the numeric option of a size or time."""
    for option in node["anyOf"]:
        if option.get("type") in {"integer", "number"}:
            return dict(option)
        if "anyOf" in option:
            return number_of(option)
    return {}


def bounds(node: JsonSchema, unit: str) -> str:
    """Return the bounds of a number or the length of a text."""
    least, most = node.get("minimum"), node.get("maximum")
    spell: Any = {"bytes": format_size, "seconds": format_seconds}.get(unit, str)
    if unit == "bytes":
        return f" from {spell(least)}" if least else ""
    if unit == "seconds":
        return f" up to {spell(most)}"
    if least is not None and most is not None:
        return f", {spell(least)} to {spell(most)}"
    if "maxLength" in node:
        return f" of {node.get('minLength', 0)} to {node['maxLength']} characters"
    return ""


def model_of(node: JsonSchema) -> str:
    """Return the name of the model that a node refers to."""
    return str(node.get("$ref", "")).rpartition("/")[2]


def resolved(root: JsonSchema, node: JsonSchema) -> JsonSchema:
    """Return the node, or what it refers to with its own description."""
    reference = node.get("$ref")
    if not isinstance(reference, str):
        return node
    return {**root["$defs"][model_of(node)], **{key: node[key] for key in node if key != "$ref"}}


def sentence(node: JsonSchema) -> str:
    """Return the first paragraph of a model's description."""
    return " ".join(str(node.get("description", "")).split("\n\n")[0].replace("``", "`").split())


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    return [
        f"| {' | '.join(titles)} |",
        f"|{'|'.join('---' for _ in titles)}|",
        *(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
    ]


def text(lines: Sequence[str]) -> str:
    """Return the lines as text with one newline at its end."""
    return "\n".join(lines).rstrip() + "\n"
