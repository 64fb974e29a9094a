"""Every package says what it exports, sorted, and nothing in the list is missing."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jubako

# Those run in other interpreters, and have their own tests.
SKIPPED = (
    "jubako.agent",
    "jubako.drivers.wasmtime.artifacts.guest",
    "jubako.drivers.wasmtime.artifacts.workshop",
    "jubako.drivers.wasmtime.worker.",
    "jubako.probes.programs",
)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(jubako.__path__, "jubako.")
    if not module.name.startswith(SKIPPED) and not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", ["jubako", *MODULES])
def test_module_lists_what_it_exports(name: str) -> None:
    module = importlib.import_module(name)
    source = Path(str(module.__file__)).read_text()
    if not source.strip() or all(isinstance(node, ast.Expr) for node in ast.parse(source).body):
        return  # a docstring alone exports nothing
    exported = getattr(module, "__all__", None)
    if exported is None:
        assert name == "jubako._version", f"{name} has no __all__"
        return
    missing = [item for item in exported if not hasattr(module, item)]
    assert not missing
    assert len(set(exported)) == len(exported)


def test_public_names_are_sorted() -> None:
    assert jubako.__all__ == sorted(jubako.__all__)


def test_lazy_names_match_what_type_checkers_see() -> None:
    tree = ast.parse(Path(str(jubako.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    homes = {name: home for home, names in jubako._HOMES.items() for name in names}
    assert seen == homes
    assert sorted([*homes, "__version__"]) == jubako.__all__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jubako.nothing  # noqa: B018  # the access itself is the test


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"anyio", "asyncio", "click", "pydantic", "rich", "sqlite3", "subprocess"}
    code = f"import sys, jubako, jubako.cli; print(sorted({heavy} & set(sys.modules)))"
    # The tracer of a measured run comes with modules of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert result.stdout.strip() == "[]"
