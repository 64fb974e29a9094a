"""What the documents claim exists, and what exists is in the documents."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import pytest
from documents import ROOT, missing_test, rows, tables, tracked, words

from jubako import errors
from jubako.policy.controls import CONTROLS
from jubako.probes import PROBES
from jubako.testing.conformance import DriverConformance, checks_of

if TYPE_CHECKING:
    from pathlib import Path

THREATS: Final = ROOT / "docs/threat-model.md"
SPECIFICATION: Final = ROOT / "docs/SPECIFICATION.md"
ARCHITECTURE: Final = ROOT / "docs/architecture.md"

NO_DRIVER: Final = {"secret.broker", "data.labels"}
"""Clauses that nothing enforces yet: documented as such, with nothing to probe."""
RECORDING: Final = {"observe.activity"}
"""Clauses that tell what programs do and stop nothing: tested otherwise."""


def problem(name: str) -> str | None:
    """Say what is wrong with the name of a test, or return None when it exists."""
    kind, _, rest = name.partition(":")
    if kind == "probe":
        found = any(fnmatchcase(probe.id, rest) for probe in PROBES)
        return None if found else f"no probe fits {rest}"
    if kind == "conformance":
        found = any(fnmatchcase(check.id, rest) for check in checks_of(DriverConformance))
        return None if found else f"no conformance check fits {rest}"
    if name.startswith(("tests/", "benchmarks/", "scripts/")):
        return missing_test(name)
    return f"{name} names no test"


@pytest.mark.parametrize("page", [THREATS, SPECIFICATION], ids=lambda page: page.stem)
def test_named_tests_exist(page: Path) -> None:
    named = rows(page, "tests")
    assert named
    wrong = [
        f"{page.name}:{row.line}: {what}"
        for row in named
        for name in words(row.cells["tests"])
        if (what := problem(name))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_threat_has_a_test() -> None:
    assert not [row.cells["threat"] for row in rows(THREATS, "threat") if not words(row.cells["tests"])]


def test_threats_name_controls_and_invariants_that_exist() -> None:
    section = ARCHITECTURE.read_text().partition("## Invariants")[2].partition("\n## ")[0]
    known = set(re.findall(r"^(\d+)\. ", section, re.MULTILINE))
    for row in rows(THREATS, "threat"):
        assert set(words(row.cells["control"])) <= CONTROLS.keys(), row
        assert set(re.findall(r"\d+", row.cells["inv."])) <= known, row
        assert row.cells["residual"], row


@pytest.mark.parametrize("control", sorted(CONTROLS.keys() - NO_DRIVER - RECORDING))
def test_every_control_is_probed_and_in_the_threat_model(control: str) -> None:
    assert any(probe.control == control for probe in PROBES), f"no containment probe for {control}"
    own = [row for row in rows(THREATS, "threat") if control in words(row.cells["control"])]
    assert own, f"no threat names {control}"
    tests = [name for row in own for name in words(row.cells["tests"])]
    assert any(name.startswith(f"probe:{control}/") for name in tests), f"no row of {control} names its probes"


def test_controls_without_a_driver_are_said_to_be() -> None:
    listed = {name for row in rows(THREATS, "control", "what is missing") for name in words(row.cells["control"])}
    assert listed == NO_DRIVER
    assert not [probe.id for probe in PROBES if probe.control in NO_DRIVER]


def test_the_table_of_probes_is_current() -> None:
    command = [sys.executable, "scripts/gen_boundaries.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_promises_without_a_test_say_so() -> None:
    for row in rows(SPECIFICATION, "promise", "tests"):
        if not words(row.cells["tests"]):
            assert row.cells["tests"].startswith("not tested"), f"{row.line}: {row.cells}"


def test_the_number_of_probes_is_current() -> None:
    said = f"{len(PROBES)} probes for {len(CONTROLS.keys() - NO_DRIVER - RECORDING)} controls"
    assert said in SPECIFICATION.read_text()


def test_every_error_is_documented() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.JubakoError)]
    assert len(classes) > len(errors.__all__) / 2
    for kind in classes:
        assert f"`{kind.code}`" in page, kind
        assert kind.__name__ in page, kind


def test_error_codes_are_unique_and_plain() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.JubakoError)]
    codes = [kind.code for kind in classes]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
    drivers = {path.name for path in (ROOT / "src/jubako/drivers").iterdir() if path.is_dir()}
    assert not [code for code in codes if any(driver in code for driver in drivers)]


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
        if not re.match(r"[a-z]+:", target)
    }
    pages = {page.resolve() for page in tracked("docs/*.md")} - {index}
    missing = {page for page in pages if page not in linked and page.parent / "README.md" not in linked}
    assert not missing, sorted(str(page.relative_to(ROOT)) for page in missing)


def test_decision_records_are_numbered_and_listed() -> None:
    folder = ROOT / "docs/adr"
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    listing = (folder / "README.md").read_text()
    for name in records:
        assert f"({name})" in listing
        text = (folder / name).read_text()
        assert [part for part in ("Status:", "## Decision", "## What it costs") if part not in text] == []


def test_changelog_fragments_have_known_kinds() -> None:
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    for path in tracked("changelog.d/*"):
        if path.name != "README.md":
            assert path.suffixes[-2:][0].lstrip(".") in kinds, path.name
            assert path.suffix == ".md", path.name


def test_tables_are_well_formed() -> None:
    assert sum(len(tables(page)) for page in tracked("*.md")) > 1
