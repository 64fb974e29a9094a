"""Every example in README.md and docs/ does what the page says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_examples import ROOT, Example, Kind, examples, matches, pages, steps

ALL = [example for page in pages() if page.exists() for example in examples(page)]
RUNNABLE = [example for example in ALL if example.kind in {Kind.PYTHON, Kind.CONSOLE}]
SECONDS = 90


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """An empty directory, with state and home of its own beside it."""
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    return tmp_path / "work"


def environment(workplace: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(workplace.parent / "home"),
        "XDG_STATE_HOME": str(workplace.parent / "home" / "state"),
        "LANG": "C.UTF-8",
        "COLUMNS": "120",
        **{name: value for name, value in os.environ.items() if name.startswith(("COVERAGE", "PYTHONPATH"))},
    }


def lay(example: Example, workplace: Path) -> None:
    for name, text in example.files.items():
        place = workplace / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("example", [pytest.param(item, id=item.name) for item in RUNNABLE])
def test_example(example: Example, workplace: Path) -> None:
    lay(example, workplace)
    if example.kind is Kind.PYTHON:
        (workplace / "example.py").write_text(example.text, encoding="utf-8")
        done = run([sys.executable, "-W", "error", "example.py"], workplace)
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        if example.output is not None:
            assert matches(example.output, done.stdout), done.stdout
        return
    for step in steps(example.text):
        done = run(["bash", "-c", step.command], workplace, merge=True)
        assert matches(step.expected, done.stdout), f"$ {step.command}\n{done.stdout}"


def run(argv: list[str], workplace: Path, *, merge: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=workplace,
        env=environment(workplace),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_there_are_examples_at_all() -> None:
    assert {example.page.name for example in RUNNABLE} >= {"README.md", "first-sandbox.md"}


def test_skipped_examples_say_why() -> None:
    assert [example.name for example in ALL if example.kind is Kind.SKIP and len(example.argument) < 10] == []


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("42", "42\n", True),
        ("42", "43\n", False),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("a\n...\nd", "a\nd\n", True),
        ("a\n...", "b\n", False),
        ("took ... ms", "took 12.5 ms", True),
        ("took ... ms", "took 12.5 s", False),
        ("(1+1)?", "(1+1)?", True),
        ("", "", True),
        ("", "something", False),
    ],
)
def test_output_is_compared_with_wildcards(expected: str, actual: str, same: bool) -> None:  # noqa: FBT001  # a parameter
    assert matches(expected, actual) is same


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = ROOT / "docs" / "none.md"
    text = (
        "# Page\n<!-- example: file a.toml -->\n```toml\nx = 1\n```\n```python\nprint(1)\n```\n"
        "<!-- example: output -->\n```text\n1\n```\n```sh\nmake run\n```\n"
        "<!-- example: skip needs a second machine -->\n```python\nprint(2)\n```\n"
        "<!-- example: run -->\n```console\n$ echo a \\\n>   b\na b\n$ true\n```\n"
    )
    place = tmp_path / "page.md"
    place.write_text(text, encoding="utf-8")
    found = examples(place)
    assert [(item.kind, item.argument) for item in found] == [
        (Kind.PYTHON, ""),
        (Kind.SKIP, "needs a second machine"),
        (Kind.CONSOLE, ""),
    ]
    assert found[0].files == {"a.toml": "x = 1\n"}
    assert found[0].output == "1\n"
    assert [(step.command, step.expected) for step in steps(found[2].text)] == [("echo a \\\n  b", "a b"), ("true", "")]
    assert page.name == "none.md"


def test_a_mark_without_a_block_is_an_error(tmp_path: Path) -> None:
    place = tmp_path / "page.md"
    place.write_text("<!-- example: run -->\nsome text\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no block"):
        examples(place)
