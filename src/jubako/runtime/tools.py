"""Host functions that programs inside may call: a typed Python function with its name, description and schema."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast, get_type_hints

from jubako.errors import InvalidPolicyError, InvalidRequestError
from jubako.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel, ValidationError

__all__ = ["ArgumentsRefusedError", "Tool", "ToolLike", "as_tools", "supplied_tools"]

_SECTION: Final = re.compile(r"^(Args|Arguments|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_ENTRY: Final = re.compile(r"^ {4}(\w+)(?: ?\([^)]*\))?:\s*(.*)$")
_MOST_PROBLEMS: Final = 20
_TEXT_LIMIT: Final = 200
_REFUSED_KINDS: Final = frozenset({
    inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD,
})  # fmt: skip


class ArgumentsRefusedError(ValueError):
    """The arguments of a call don't fit the schema; ``problems`` says where and why, for the program's author."""

    def __init__(self, problems: Sequence[Mapping[str, str]], total: int) -> None:
        super().__init__(f"{total} problem{'' if total == 1 else 's'} in the arguments")
        self.problems = tuple(problems)
        self.total = total


class Tool:
    """A host function that programs inside may call by name with JSON arguments, once the policy grants it.

    The function runs in the host's process with the host's rights: it is the hole in the wall, so it
    should check what its types can't. It may be asynchronous, and is then cancelled when its time is
    up. A synchronous one runs in a worker thread that nothing can end: its caller is told that the
    time is up, the thread goes on, and the host's process waits for it at its own end.

    Can stand as a decorator; the function stays callable as before.

    Args:
        function: Every parameter has a type annotation that pydantic knows, and can be given by name.
        name: Small letters, digits and ``_``; the function's own name when left out.
        description: What it does, for whoever writes the program; the docstring when left out.

    Raises:
        InvalidRequestError: The function or its name can't be used so.
    """

    def __init__(
        self, function: Callable[..., Any], *, name: str | None = None, description: str | None = None
    ) -> None:
        self._function = function
        self.name = name if name is not None else str(getattr(function, "__name__", ""))
        _check_name(self.name)
        text, explained = _read_docstring(inspect.getdoc(_behind(function)) or "")
        self.description = text if description is None else description
        self._arguments, self._names = _arguments_model(self.name, function, explained)
        self._asynchronous = inspect.iscoroutinefunction(_behind(function))

    @property
    def asynchronous(self) -> bool:
        """Whether the function is a coroutine function, which can be cancelled."""
        return self._asynchronous

    @functools.cached_property
    def schema(self) -> dict[str, object]:
        """Name, description and parameters (a JSON Schema), in the form that models are shown functions in."""
        parameters = _untitled(self._arguments.model_json_schema())
        return {"name": self.name, "description": self.description, "parameters": parameters}

    def parse(self, arguments: bytes) -> dict[str, Any]:
        """Return the keyword arguments for a JSON object, strictly typed. Raises ArgumentsRefusedError."""
        from pydantic import ValidationError

        try:
            parsed = self._arguments.model_validate_json(arguments, strict=True)
        except ValidationError as error:
            raise _refused(error) from None
        # Only what was given, so that the function's own defaults stay its own.
        return {self._names[field]: getattr(parsed, field) for field in sorted(parsed.model_fields_set)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, on the host."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"


ToolLike = Tool | Callable[..., Any]
"""A tool, or a function that becomes one."""


def as_tools(given: Sequence[ToolLike]) -> tuple[Tool, ...]:
    """Return the tools, made of functions where they are none yet. Raises InvalidRequestError."""
    tools = tuple(item if isinstance(item, Tool) else Tool(_callable(item)) for item in given)
    names = [item.name for item in tools]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        msg = f"two tools are named {', '.join(doubled)}"
        raise InvalidRequestError(msg, hint="give one another name: Tool(function, name=...)")
    return tools


def supplied_tools(given: Sequence[ToolLike], policy: Policy) -> tuple[Tool, ...]:
    """Return the tools, exactly those that ``policy`` grants. Raises InvalidRequestError otherwise."""
    tools = as_tools(given)
    names = {item.name for item in tools}
    ungranted = sorted(names - policy.tools.keys())
    if ungranted:
        listed = ", ".join(f'"{name}"' for name in ungranted)
        msg = f"the policy does not grant the tools {', '.join(ungranted)}"
        hint = f"pass policy.with_tools({listed}), or a table [tools.{ungranted[0]}] in the policy's file"
        raise InvalidRequestError(msg, hint=hint, details={"tools": ungranted})
    missing = sorted(policy.tools.keys() - names)
    if missing:
        msg = f"the policy grants tools that nobody supplies: {', '.join(missing)}"
        raise InvalidRequestError(msg, hint="pass them as tools=[...], or drop the grant", details={"tools": missing})
    return tools


def _callable(item: object) -> Callable[..., Any]:
    if not callable(item):
        msg = f"a tool is a function or a Tool, not {type(item).__name__}"
        raise InvalidRequestError(msg)
    return item


def _check_name(name: str) -> None:
    try:
        Policy().with_tools(name)
    except InvalidPolicyError:
        msg = f"{name!r} is no name for a tool: a small letter, then small letters, digits and _"
        raise InvalidRequestError(msg, hint="pass name=", details={"name": name}) from None


def _behind(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function whose docstring and annotations count."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    return cast("Callable[..., Any]", inspect.unwrap(function))


def _arguments_model(
    tool: str, function: Callable[..., Any], explained: Mapping[str, str]
) -> tuple[type[BaseModel], dict[str, str]]:
    """Return a model of the arguments and the parameter of each of its fields.

    The fields have names of their own, because a parameter may be called what models use themselves.
    """
    from pydantic import ConfigDict, create_model
    from pydantic.errors import PydanticUserError

    names: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for number, (name, parameter, annotation) in enumerate(_parameters(tool, function)):
        field = f"argument_{number}"
        names[field] = name
        fields[field] = (annotation, _field(parameter, explained.get(name)))
    try:
        # validate_default is off: a default is the host's own and never reaches the model.
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        return create_model("Arguments", __config__=config, **fields), names
    except (PydanticUserError, TypeError) as error:
        msg = f"tool {tool}: pydantic can't check its parameters: {str(error).splitlines()[0]}"
        raise InvalidRequestError(msg, details={"tool": tool}) from error


def _field(parameter: inspect.Parameter, description: str | None) -> Any:
    from pydantic import Field

    if parameter.default is inspect.Parameter.empty:
        return Field(alias=parameter.name, description=description)
    return Field(default=parameter.default, alias=parameter.name, description=description)


def _parameters(tool: str, function: Callable[..., Any]) -> list[tuple[str, inspect.Parameter, Any]]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        msg = f"tool {tool}: its parameters can't be told: {error}"
        raise InvalidRequestError(msg, details={"tool": tool}) from error
    written: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in _REFUSED_KINDS:
            msg = f"tool {tool}: parameter {name} can't be given by name"
            raise InvalidRequestError(msg, hint="use plain parameters", details={"tool": tool, "parameter": name})
        if parameter.annotation is inspect.Parameter.empty:
            msg = f"tool {tool}: parameter {name} has no type annotation"
            raise InvalidRequestError(msg, details={"tool": tool, "parameter": name})
        written[name] = parameter.annotation

    class Written:  # only the parameters: what the function returns may name types that exist for checkers only
        __annotations__ = written

    try:
        hints = get_type_hints(Written, globalns=getattr(_behind(function), "__globals__", {}), include_extras=True)
    except NameError as error:
        msg = f"tool {tool}: an annotation can't be resolved: {error}"
        hint = "import the type at run time, at the top of the module"
        raise InvalidRequestError(msg, hint=hint, details={"tool": tool}) from error
    return [(name, parameter, hints[name]) for name, parameter in signature.parameters.items()]


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return what stands before the sections of a docstring, and what its ``Args:`` say of each parameter."""
    lines = text.splitlines()
    marks = [index for index, line in enumerate(lines) if _SECTION.match(line)]
    explained: dict[str, str] = {}
    for begin, end in itertools.pairwise([*marks, len(lines)]):
        if not lines[begin].startswith("Arg"):
            continue
        current = ""
        for line in lines[begin + 1 : end]:
            entry = _ENTRY.match(line)
            if entry:
                current = entry[1]
                explained[current] = entry[2].strip()
            elif current and line.strip():
                explained[current] = f"{explained[current]} {line.strip()}".strip()
    head = lines[: marks[0]] if marks else lines
    return "\n".join(head).strip(), explained


def _untitled(node: object) -> Any:
    """Return the schema without the titles that pydantic makes up."""
    if isinstance(node, list):
        return [_untitled(item) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    pairs = cast("dict[str, Any]", node).items()
    return {
        key: {name: _untitled(item) for name, item in value.items()} if key in {"properties", "$defs"} else
        value if key in {"default", "const", "enum", "examples"} else _untitled(value)
        for key, value in pairs
        if key != "title"
    }  # fmt: skip


def _refused(error: ValidationError) -> ArgumentsRefusedError:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    problems = [
        # Cut, because the names of unknown fields are the program's and may be as long as its arguments.
        {"field": ".".join(str(part) for part in item["loc"])[:_TEXT_LIMIT], "message": item["msg"][:_TEXT_LIMIT]}
        for item in found[:_MOST_PROBLEMS]
    ]
    return ArgumentsRefusedError(problems, len(found))
