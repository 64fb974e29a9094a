"""The catalogue is complete, and its programs can be sent to any guest."""

from __future__ import annotations

import ast
import re
from collections import Counter
from importlib import resources

import pytest

from jubako.errors import InvalidRequestError
from jubako.policy import CONTROLS
from jubako.probes import PROBES, Probe, select_probes
from jubako.probes.model import Place
from jubako.probes.scenarios import SCENARIOS
from jubako.probes.sources import Sources

ROOT = resources.files("jubako.probes") / "programs"
WITHOUT_DRIVER = {"secret.broker", "data.labels"}  # no driver enforces them yet
RECORDING = {"observe.activity"}  # tells what programs do and stops nothing


def _used(probe: Probe) -> set[str]:
    return {probe.program, probe.outside.stage} - {""}


def _programs() -> list[str]:
    found = []
    for group in ROOT.iterdir():
        if group.is_dir() and group.name != "__pycache__":
            found += [f"{group.name}/{item.name}" for item in group.iterdir() if item.name.endswith(".py")]
    return sorted(found)


def test_ids_are_unique() -> None:
    assert [name for name, count in Counter(probe.id for probe in PROBES).items() if count > 1] == []


def test_there_are_many() -> None:
    assert len(PROBES) >= 100


def test_every_control_that_a_driver_enforces_has_a_probe() -> None:
    probed = {probe.control for probe in PROBES}
    assert set(CONTROLS) - probed == WITHOUT_DRIVER | RECORDING
    assert probed <= set(CONTROLS)


def test_every_program_is_used_and_exists() -> None:
    assert set().union(*map(_used, PROBES)) == set(_programs())


def test_every_scenario_is_used_and_exists() -> None:
    assert {probe.scenario for probe in PROBES} == set(SCENARIOS)


@pytest.mark.parametrize("name", ["prelude.py", *(name for name in _programs() if name.endswith(".py"))])
def test_programs_are_python_of_old_guests(name: str) -> None:
    ast.parse(ROOT.joinpath(*name.split("/")).read_text(), feature_version=(3, 8))


def test_sources_fit_into_an_argument() -> None:
    sources = Sources()
    for probe in PROBES:
        argv = sources.argv(probe.program, {}, stage=probe.outside.stage)
        assert max(len(word.encode()) for word in argv) < 100_000, probe.id


def test_sources_carry_the_numbers_of_the_calls_that_they_name() -> None:
    source = Sources().argv("kernel/reach.py", {"names": "bpf"})[5]
    numbers = re.search(r"^NR = (\{.*\})$", source, re.MULTILINE)
    assert numbers is not None
    assert {"bpf", "io_uring_setup", "keyctl"} <= set(ast.literal_eval(numbers[1]))


def test_only_programs_that_read_or_open_run_as_the_caller() -> None:
    # As root they are root on the host: each of these was looked at for that.
    harmless = {
        "files/read_path.py", "files/path_tricks.py", "files/by_handle.py", "files/open_paths.py", "files/sysfs.py",
        "files/make_nodes.py", "kernel/reach.py", "kernel/settime.py", "kernel/rights.py", "kernel/identity.py",
        "resource/heart.py", "resource/memory.py",
    }  # fmt: skip
    assert {probe.program for probe in PROBES if probe.outside.place is Place.CALLER} == harmless


def test_patterns_select_by_id_and_control() -> None:
    assert {probe.control for probe in select_probes(["net.*"])} == {"net.default-deny", "net.sockets"}
    assert [probe.id for probe in select_probes(["syscall.allowlist/bpf"])] == ["syscall.allowlist/bpf"]
    assert select_probes() == PROBES


def test_a_pattern_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(InvalidRequestError, match="no probe fits"):
        select_probes(["net.*", "nonsense"])
