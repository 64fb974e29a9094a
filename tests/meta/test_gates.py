"""The rules that no linter of others knows: sizes, links, layers, reasons beside exceptions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize

import pytest
from documents import ROOT, tracked

from jubako.policy.controls import CONTROLS

AGENT_MODULES = {
    # Start-up budget and Python 3.8: standard library, and of that what costs nothing to import.
    "__future__", "_ctypes", "_posixsubprocess", "_random", "_signal", "_socket", "_struct", "array", "errno", "fcntl",
    "gc", "io", "marshal", "os", "posix", "pwd", "resource", "select", "stat", "sys", "termios", "time",
}  # fmt: skip
EXCEPTION = re.compile(r"#\s*(noqa|type: ignore|pyright: ignore|pragma: no cover)([^#]*)(#.*)?$")


def run_script(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, f"scripts/{name}"], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["check_modules.py", "check_links.py"])
def test_the_trees_own_checks_pass(name: str) -> None:
    done = run_script(name)
    assert (done.returncode, done.stdout) == (0, "")


def imports_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def test_the_agent_imports_little_and_nothing_of_jubako() -> None:
    # Below it is what programs load for themselves.
    agent = [path for path in tracked("src/jubako/agent/*.py") if path.parent.name == "agent"]
    assert agent
    for path in agent:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing_only = {
            id(child)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            for child in ast.walk(node)
        }
        runtime = [node for node in ast.walk(tree) if id(node) not in typing_only]
        used = set().union(*(imports_of(node) for node in runtime if isinstance(node, ast.Import | ast.ImportFrom)))
        assert used <= AGENT_MODULES, f"{path.name} imports {sorted(used - AGENT_MODULES)}"


def test_the_agent_is_in_python_3_8s_language() -> None:
    for path in tracked("src/jubako/agent/*.py"):
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 8))


def test_control_comments_name_controls() -> None:
    named = set()
    for path in tracked("src/*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = re.search(r"#.*\bcontrol: (.+)", line)
            if not found or "/programs/" in str(path):
                continue
            for word in re.findall(r"\b[a-z]+\.[a-z-]+", found[1].partition(" - ")[0]):
                assert word in CONTROLS, f"{path}:{number}: no control {word!r}"
                named.add(word)
    assert len(named) > len(CONTROLS) / 2, f"few controls are marked where they are enforced: {sorted(named)}"


def test_exceptions_to_rules_have_reasons() -> None:
    """Each has its reason on the line; where a file repeats one, the first."""
    bare = []
    for path in tracked("src/*.py", "tests/*.py", "scripts/*.py", "benchmarks/*.py"):
        if "/programs/" in str(path):
            continue
        explained: set[str] = set()
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                found = EXCEPTION.match(token.string) if token.type == tokenize.COMMENT else None
                if not found:
                    continue
                rules = set(re.findall(r"[A-Za-z][a-z-]+|[A-Z]+", found[2]))  # by family: PTH118 explains PTH112
                if (found[3] or "").strip("# "):
                    explained |= rules
                elif not rules or rules - explained:
                    bare.append(f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}")
    assert not bare, "\n".join(bare)


def test_no_leftovers() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("src/*.py", "tests/*.py", "scripts/*", "benchmarks/*.py", "*.md", "Makefile")
        if path != ROOT / "tests/meta/test_gates.py"
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if words.search(line)
    ]
    assert not found
