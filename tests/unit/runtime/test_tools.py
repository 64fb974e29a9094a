"""Typed functions as host functions: names, schemas, strict arguments."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003  # looked up at run time, as any tool's types are
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from jubako.errors import InvalidRequestError
from jubako.policy import Policy
from jubako.runtime.tools import ArgumentsRefusedError, Tool, as_tools, supplied_tools


class Place(BaseModel):
    """A place."""

    city: str
    title: str | None = None


def search(query: str, limit: int = 10, *, order: Literal["new", "old"] = "new") -> list[str]:
    """Search the catalogue.

    Words are joined by "and".

    Args:
        query: Words to look for,
            in any order.
        limit (int): Results at most.

    Returns:
        Titles.
    """
    return [query, str(limit), order]


def test_a_function_says_everything_itself() -> None:
    tool = Tool(search)
    assert tool.schema == {
        "name": "search",
        "description": 'Search the catalogue.\n\nWords are joined by "and".',
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "Words to look for, in any order."},
                "limit": {"type": "integer", "description": "Results at most.", "default": 10},
                "order": {"type": "string", "enum": ["new", "old"], "default": "new"},
            },
            "required": ["query"],
            "additionalProperties": False,
        },
    }
    assert json.loads(json.dumps(tool.schema)) == tool.schema
    assert tool("x", limit=1) == ["x", "1", "new"]
    assert repr(tool) == "<Tool search>"
    assert not tool.asynchronous


def test_names_and_descriptions_may_be_given() -> None:
    tool = Tool(search, name="find", description="Finds.")
    assert (tool.name, tool.description) == ("find", "Finds.")
    with pytest.raises(InvalidRequestError, match="two tools are named find"):
        as_tools([tool, Tool(search, name="find")])


@pytest.mark.parametrize("name", ["", "Search", "1a", "a-b", "a" * 64, "<lambda>", "é"])
def test_names_that_none_can_have(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no name for a tool"):
        Tool(search, name=name)


def odd_names(schema: str, json: int, model_config: str, argument_0: float, _x: str = "u", copy: str = "c") -> None:
    """Parameters that are called what models call their own things."""


def test_any_parameter_name_will_do() -> None:
    tool = Tool(odd_names)
    given = {"schema": "s", "json": 1, "model_config": "m", "argument_0": 0.5, "_x": "v"}
    assert tool.parse(json.dumps(given).encode()) == given
    assert set(tool.schema["parameters"]["properties"]) == {*given, "copy"}  # type: ignore[index]  # a schema


def rich(
    where: Place, when: datetime, tags: set[str], extra: dict[str, Any], kept: Annotated[int, Field(ge=1)]
) -> None:
    """Takes a lot."""


def test_rich_types_come_from_json() -> None:
    tool = Tool(rich)
    text = b'{"where":{"city":"Ulm"},"when":"2026-01-02T03:04:05Z","tags":["a","a"],"extra":{"x":[1]},"kept":3}'
    parsed = tool.parse(text)
    assert parsed["where"] == Place(city="Ulm")
    assert (parsed["when"].year, parsed["tags"], parsed["extra"]) == (2026, {"a"}, {"x": [1]})
    schema = json.dumps(tool.schema)
    assert '"title": {' in schema  # a field of that name stays
    assert '"title": "' not in schema  # made-up titles go


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        (b"{}", "query", "Field required"),
        (b'{"query":1}', "query", "valid string"),
        (b'{"query":"x","limit":"3"}', "limit", "valid integer"),
        (b'{"query":"x","limit":true}', "limit", "valid integer"),
        (b'{"query":"x","limit":1.0}', "limit", "valid integer"),
        (b'{"query":"x","Limit":1}', "Limit", "Extra inputs"),
        (b'{"query":"x","argument_0":"y"}', "argument_0", "Extra inputs"),
        (b'{"query":"x","order":"best"}', "order", "'new' or 'old'"),
        (b"[]", "", "object"),
        (b"", "", "Invalid JSON"),
        (b'{"query":"x"', "", "Invalid JSON"),
        (b'{"query":"x"}x', "", "Invalid JSON"),
        (b'{"query":"\xff"}', "", "Invalid JSON"),
        (b'{"query":"\\ud800"}', "", "Invalid JSON"),
        (b'{"query":"x","limit":NaN}', "limit", "valid integer"),
        (b'{"query":' + b"[" * 100_000, "", "recursion limit"),
        (b'{"query":"x","limit":' + b"9" * 60_000 + b"}", "", "out of range"),
    ],
)
def test_arguments_are_checked_strictly(text: bytes, field: str, message: str) -> None:
    with pytest.raises(ArgumentsRefusedError) as caught:
        Tool(search).parse(text)
    assert caught.value.problems[0]["field"] == field
    assert message in caught.value.problems[0]["message"]


def test_many_problems_are_cut_but_counted() -> None:
    text = json.dumps({f"x{n}": n for n in range(99)}).encode()
    with pytest.raises(ArgumentsRefusedError, match="100 problems in the arguments") as caught:
        Tool(search).parse(text)
    assert len(caught.value.problems) == 20
    with pytest.raises(ArgumentsRefusedError) as caught:
        Tool(search).parse(json.dumps({"query": "x", "y" * 60_000: 1}).encode())
    assert caught.value.problems[0]["field"] == "y" * 200


def test_infinite_numbers_are_none() -> None:
    def weigh(kilos: float) -> float:
        return kilos

    assert Tool(weigh).parse(b'{"kilos":1e3}') == {"kilos": 1000.0}
    for text in (b"NaN", b"Infinity", b"1e999"):
        with pytest.raises(ArgumentsRefusedError):
            Tool(weigh).parse(b'{"kilos":' + text + b"}")


def bare(x) -> None:  # type: ignore[no-untyped-def]  # that is the point  # noqa: ANN001
    """No annotation."""


def spread(*words: str) -> None:
    """Any number."""


def named(**words: str) -> None:
    """Any name."""


def placed(x: int, /) -> None:
    """By place only."""


def unresolved(x: Missing) -> None:  # type: ignore[name-defined]  # that is the point  # noqa: F821
    """A type that exists nowhere."""


@dataclass
class Opaque:
    stream: memoryview


def unknown(x: memoryview) -> None:
    """A type that pydantic does not know."""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (bare, "parameter x has no type annotation"),
        (spread, "parameter words can't be given by name"),
        (named, "parameter words can't be given by name"),
        (placed, "parameter x can't be given by name"),
        (unresolved, "an annotation can't be resolved"),
        (unknown, "pydantic can't check its parameters"),
    ],
)
def test_functions_that_can_not_be_tools(function: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Tool(function)


def test_what_is_no_function_is_no_tool() -> None:
    with pytest.raises(InvalidRequestError, match="a tool is a function or a Tool, not str"):
        as_tools(["search"])  # type: ignore[list-item]  # that is the point
    with pytest.raises(InvalidRequestError, match="its parameters can't be told"):
        Tool(max, name="max")


class Client:
    """Holds a session."""

    def fetch(self, key: str) -> str:
        """Fetch one thing."""
        return f"value of {key}"

    def __call__(self, key: str) -> str:
        """Fetch, by calling."""
        return key

    async def later(self, key: str) -> str:
        """Fetch slowly."""
        return key


def test_methods_partials_and_callable_objects() -> None:
    method, partial, instance = (
        Tool(Client().fetch),
        Tool(functools.partial(search, order="old"), name="find_old"),
        Tool(Client(), name="client"),
    )
    assert (method.name, method.description) == ("fetch", "Fetch one thing.")
    assert method(**method.parse(b'{"key":"k"}')) == "value of k"
    assert partial.description.startswith("Search the catalogue.")
    assert partial(**partial.parse(b'{"query":"q"}')) == ["q", "10", "old"]
    assert (instance.description, instance(**instance.parse(b'{"key":"k"}'))) == ("Fetch, by calling.", "k")
    assert Tool(Client().later).asynchronous


def test_a_tool_as_a_decorator() -> None:
    @Tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    assert double(4) == 8
    assert double.schema["description"] == "Double a number."


def test_policy_and_caller_must_name_the_same_tools() -> None:
    assert supplied_tools([], Policy()) == ()
    granted = Policy().with_tools("search")
    assert [tool.name for tool in supplied_tools([search], granted)] == ["search"]
    with pytest.raises(InvalidRequestError, match="does not grant the tools search") as caught:
        supplied_tools([search], Policy())
    assert 'policy.with_tools("search")' in caught.value.hint
    with pytest.raises(InvalidRequestError, match="grants tools that nobody supplies: search"):
        supplied_tools([], granted)
