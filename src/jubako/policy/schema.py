"""JSON Schema of the policy, as editors and tools read it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from jubako.policy.model import Policy, SandboxSpec

if TYPE_CHECKING:
    from pydantic import BaseModel

    from jubako.policy._toml_lines import Path

__all__ = ["JsonSchema", "known_fields", "policy_schema", "spec_schema", "tidy_schema"]

JsonSchema = dict[str, Any]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_UNITS: Final = MappingProxyType(
    {
        "byte-size": r"^\s*[0-9]{1,18}(\.[0-9]{1,6})?\s*([KkMmGgTt]([Ii]?[Bb])?|[Bb])?\s*$",
        "seconds": r"^\s*[0-9]{1,18}(\.[0-9]{1,6})?\s*(ms|s|m|h|d)?\s*$",
    }
)


def policy_schema() -> JsonSchema:
    """Return the schema of a policy file."""
    schema = tidy_schema(Policy, "policy.v1")
    schema["required"] = ["schema_version"]
    return schema


def spec_schema() -> JsonSchema:
    """Return the schema of a sandbox specification."""
    return tidy_schema(SandboxSpec, "sandbox-spec.v1")


def tidy_schema(model: type[BaseModel], name: str, *, complete: bool = False) -> JsonSchema:
    """Return the schema of ``model`` under ``name``, without noise, sizes and times also as strings.

    ``complete`` says that every field is always there, as in what jubako itself writes.
    """
    # The serialization side has the plain types with their bounds; what may be written besides is added here.
    schema: JsonSchema = model.model_json_schema(mode="serialization")
    return {"$schema": _DIALECT, "$id": f"urn:jubako:schema:{name}", **_tidy(schema, complete=complete)}


def _tidy(node: JsonSchema, *, complete: bool) -> JsonSchema:
    tidied: JsonSchema = {}
    for key, value in node.items():
        if key in {"properties", "$defs"}:
            tidied[key] = {name: _tidy(item, complete=complete) for name, item in value.items()}
        elif key in {"default", "const", "enum"}:
            tidied[key] = value
        elif isinstance(value, dict):
            tidied[key] = _tidy(cast("JsonSchema", value), complete=complete)
        elif key in {"anyOf", "oneOf"}:
            tidied[key] = [_tidy(item, complete=complete) for item in value]
        elif key != "title":
            tidied[key] = value
    return _bounds(_closed(tidied, complete=complete))


def _closed(node: JsonSchema, *, complete: bool) -> JsonSchema:
    """Require what pydantic requires without saying so: tags of unions, and names that fit their pattern."""
    if "patternProperties" in node:
        node.setdefault("additionalProperties", False)
    properties = node.get("properties", {})
    tags = [name for name in ("kind", "type") if "const" in properties.get(name, {})]
    needed = list(properties) if complete else [*tags, *node.get("required", [])]
    if needed:
        node["required"] = needed
    return node


def _bounds(node: JsonSchema) -> JsonSchema:
    """Bounds behind a before-validator come out under pydantic's own names."""
    for own, standard, pick in (("ge", "minimum", max), ("le", "maximum", min), ("gt", "exclusiveMinimum", max)):
        if own in node:
            value = node.pop(own)
            node[standard] = pick(value, node[standard]) if standard in node else value
    form = node.pop("format", None) if node.get("format") in _UNITS else None
    if form is None:
        return node
    number = {key: node.pop(key) for key in ("type", "minimum", "maximum", "exclusiveMinimum") if key in node}
    return {"anyOf": [number, {"type": "string", "pattern": _UNITS[form]}], **node}


def known_fields(root: JsonSchema, path: Path) -> tuple[str, ...]:
    """Return the names of the fields that may stand below ``path`` in what the schema ``root`` describes."""
    nodes = [root]
    for part in path:
        nodes = [child for node in nodes for child in _below(root, node, part)]
    names = (name for node in nodes for name in _resolved(root, node).get("properties", {}))
    return tuple(dict.fromkeys(names))


def _resolved(root: JsonSchema, node: JsonSchema) -> JsonSchema:
    reference = node.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if isinstance(reference, str) else node


def _below(root: JsonSchema, node: JsonSchema, part: str | int) -> list[JsonSchema]:
    node = _resolved(root, node)
    found = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
    if found is None and isinstance(part, str):
        named = node.get("patternProperties", {}).values()
        found = next(iter(named), node.get("additionalProperties"))
    if not isinstance(found, dict):
        return []
    child = cast("JsonSchema", found)
    options: list[JsonSchema] = child.get("oneOf") or child.get("anyOf") or [child]
    return options
