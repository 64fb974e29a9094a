from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jubako.errors import InvalidPolicyError, MissingExtraError
from jubako.policy import Policy, load_policy, loads_policy

if TYPE_CHECKING:
    from pathlib import Path

TOML = """\
schema_version = 1

[files]
workspace_size = "1GiB"
mounts = [
  { source = "/srv/data", target = "/data" },
]

[time]
exec = "5m"

[[relaxations]]
kind = "accept-weaker"
control = "resource.memory"
accept = "optional"
reason = "no cgroups on the build machines"
"""
YAML = """\
schema_version: 1
files:
  workspace_size: 1GiB
  mounts:
    - {source: /srv/data, target: /data}
time:
  exec: 5m
network: {egress: off}
relaxations:
  - kind: accept-weaker
    control: resource.memory
    accept: optional
    reason: no cgroups on the build machines
"""


def refusal(text: str, form: Any = "toml") -> InvalidPolicyError:
    with pytest.raises(InvalidPolicyError) as caught:
        loads_policy(text, form, f"p.{form}")
    return caught.value


def problems(text: str, form: Any = "toml") -> list[tuple[int | None, int | None, str]]:
    listed = refusal(text, form).details["problems"]
    assert isinstance(listed, list)
    return [(item["line"], item["column"], item["field"]) for item in listed]


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(TOML)
    (tmp_path / "p.YML").write_text(YAML)
    policy = load_policy(tmp_path / "p.toml")
    assert policy == load_policy(str(tmp_path / "p.YML"))
    assert policy.files.workspace_size == 2**30
    assert policy.time.exec == 300.0
    assert policy.requirement("resource.memory").value == "optional"


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_bytes(b"\xef\xbb\xbfschema_version = 1\n")
    assert load_policy(tmp_path / "p.toml") == Policy()


def test_several_problems_come_at_once_each_with_its_place() -> None:
    error = refusal("""\
schema_version = 1
[files]
workspace_sise = "1GiB"
tmp_size = true
mounts = [ { source = "/a", target = "/b/", acces = "rw" },
  { source = "/c", target = "/d" } ]
[require]
"fs.prc" = "enforced"
[resources]
processes = "3"
memory = "1 MB"
""")
    assert [(item["line"], item["field"]) for item in error.details["problems"]] == [  # type: ignore[attr-defined]  # a list
        (3, "files.workspace_sise"),
        (4, "files.tmp_size"),
        (5, "files.mounts[0].target"),
        (5, "files.mounts[0].acces"),
        (8, 'require."fs.prc"'),
        (10, "resources.processes"),
        (11, "resources.memory"),
    ]
    assert error.message.splitlines()[0] == "p.toml: 7 problems"
    assert "p.toml:3:1: files.workspace_sise: unknown field; did you mean workspace_size?" in error.message
    assert "p.toml:5:45: files.mounts[0].acces: unknown field; did you mean access?" in error.message
    assert "did you mean fs.proc?" in error.message
    assert "resources.processes: should be an integer" in error.message
    assert "resources.memory: should be at least 33554432" in error.message
    assert (error.details["file"], error.details["line"], error.details["field"]) == (
        "p.toml",
        3,
        "files.workspace_sise",
    )


@pytest.mark.parametrize(
    ("text", "place", "field"),
    [
        ("schema_version = 1\nx =\n", (2, 4), ""),
        ("schema_version = 1\nschema_version = 1\n", (2, 19), ""),
        ("schema_version = 1\n[files]\n[files]\n", (3, 7), ""),
        ('schema_version = 1\na = """', (2, 8), ""),
        ("[files]\n", (1, 1), "schema_version"),
        ("schema_version = 2\n", (1, 1), "schema_version"),
        ('schema_version = "1"\n', (1, 1), "schema_version"),
        ("schema_version = 1\nfiles = 3\n", (2, 1), "files"),
        ("schema_version = 1\nnetwork.egress = 'on'\n", (2, 1), "network.egress"),
        ("schema_version = 1\nresources.cpus = nan\n", (2, 1), "resources.cpus"),
        ("schema_version = 1\nresources.cpus = true\n", (2, 1), "resources.cpus"),
        ("schema_version = 1\ntime.exec = '5 weeks'\n", (2, 1), "time.exec"),
        ("schema_version = 1\nrequire.'fs.proc' = 'optional'\n", (2, 1), 'require."fs.proc"'),
        ("schema_version = 1\n[environment.variables]\n'A B' = '1'\n", (3, 1), 'environment.variables."A B"'),
        ("schema_version = 1\n[secrets.KEY]\nsource = 'env:X'\n", (2, 1), "secrets.KEY.hosts"),
        ("schema_version = 1\n[tools.'Look Up']\n", (2, 1), 'tools."Look Up"'),
        ("schema_version = 1\n[tools.search]\ncalls = 1.5\n", (3, 1), "tools.search.calls"),
        ("schema_version = 1\n[observe]\nactivity = true\nsensitive = ['/a', 'b']\n", (4, 20), "observe.sensitive[1]"),
        (
            "schema_version = 1\n\n[[files.mounts]]\nsource='/a'\ntarget='/b'\naccess='rw'\n",
            (6, 1),
            "files.mounts[0].access",
        ),
        ("schema_version = 1\n[files]\nhide = [ '/a',\n  '/workspace' ]\n", (4, 3), "files.hide[1]"),
        ("schema_version = 1\n[[relaxations]]\nkind = 'nonsense'\n", (2, 1), "relaxations[0]"),
        (
            "schema_version = 1\n[files]\nmounts = [{source='/a', target='/proc/x'}]\n",
            (3, 25),
            "files.mounts[0].target",
        ),
    ],
)
def test_toml_problems_have_a_place(text: str, place: tuple[int, int], field: str) -> None:
    assert problems(text) == [(*place, field)]


def test_a_misspelt_budget_is_guessed() -> None:
    text = "schema_version = 1\n[tools.search]\nsecond = 3\n"
    assert "p.toml:3:1: tools.search.second: unknown field; did you mean seconds?" in refusal(text).message


@pytest.mark.parametrize(
    ("text", "place", "field"),
    [
        ("schema_version: 1\nx: [1\n", (3, 1), ""),
        ("schema_version: 1\nschema_version: 1\n", (2, 1), ""),
        ("schema_version: 1\nfiles:\n  tmp_size: 1\n  tmp_size: 2\n", (4, 3), ""),
        ("schema_version: 1\nfiles: &a {}\ntime: *a\n", (2, 8), ""),
        ("schema_version: 1\ntime: *a\n", (2, 7), ""),
        ("schema_version: 1\ntime: !!python/object/apply:os.system [id]\n", (2, 7), ""),
        ("schema_version: 1\nfiles: !!set {a}\n", (2, 8), ""),
        ("schema_version: 1\n---\nschema_version: 1\n", (2, 1), ""),
        ("schema_version: 1\nfiles: {<<: {tmp_size: 1MiB}}\n", (2, 9), ""),
        ("schema_version: 1\n? [a]\n: 1\n", (2, 3), ""),
        ("schema_version: 1\n\ttime: 1\n", (2, 1), ""),
        ("schema_version: 1\nnetwork:\n  egress: on\n", (3, 3), "network.egress"),
        ("schema_version: 1\nresources:\n  processes: yes\n", (3, 3), "resources.processes"),
        ("schema_version: 1\nresources:\n  processes: '12'\n", (3, 3), "resources.processes"),
        ("schema_version: 1\nfiles:\n  hide:\n    - /a\n    - b\n", (5, 7), "files.hide[1]"),
        ("schema_version: 1\ntyme: {}\n", (2, 1), "tyme"),
        ("- 1\n", (None, None), ""),
        ("", (None, None), ""),
    ],
)
def test_yaml_problems_have_a_place(text: str, place: tuple[int | None, int | None], field: str) -> None:
    assert problems(text, "yaml") == [(*place, field)]


def test_yaml_scalars_follow_the_core_schema() -> None:
    policy = loads_policy(
        "schema_version: 0x1\nnetwork: {egress: off}\nresources: {processes: 0o20, cpus: 5e-1}\n"
        "environment: {variables: {A: 'yes', B: no, C: \"1\", D: 2020-01-01}}\noutput: {max_bytes: 1MiB}\n",
        "yaml",
    )
    assert policy.resources.processes == 16
    assert policy.resources.cpus == 0.5
    assert policy.environment.variables == {"A": "yes", "B": "no", "C": "1", "D": "2020-01-01"}


@pytest.mark.parametrize("form", ["toml", "yaml"])
def test_deep_nesting_is_refused_quickly(form: str) -> None:
    bombs = {
        "toml": ["a = " + "[" * 200_000, "a" + ".a" * 200_000 + " = 1", "[a" + ".a" * 5000 + "]", "a={a=" * 50_000],
        "yaml": [
            "[" * 100_000,
            "{a: " * 50_000,
            "- " * 50_000,
            "schema_version: 1\ndriver_options: " + "{a: " * 60 + "1" + "}" * 60,
        ],
    }
    for text in bombs[form]:
        error = refusal(text, form)
        assert error.code == "invalid-policy"
        assert len(str(error)) < 3000


def test_nesting_in_driver_options_is_bounded() -> None:
    text = "schema_version = 1\n[driver_options.bwrap]\nx = " + "[" * 40 + "]" * 40
    error = refusal(text)
    assert error.message == "p.toml:3:35: nested more than 32 deep"
    text = "schema_version: 1\ndriver_options:\n  bwrap: " + "[" * 40 + "]" * 40
    assert refusal(text, "yaml").message == "p.yaml:3:41: nested more than 32 deep"


def test_many_problems_are_cut_but_counted() -> None:
    text = "schema_version = 1\n" + "".join(f"unknown{index} = 1\n" for index in range(5000))
    error = refusal(text)
    assert error.message.startswith("p.toml: 5000 problems")
    assert error.message.endswith("and 4980 more")
    assert len(str(error)) < 20_000


def test_foreign_text_does_not_reach_the_terminal_raw() -> None:
    error = refusal('schema_version = 1\n"\\u001b[2J" = 1\n[environment.variables]\n"\\u202e" = "x"\n')
    assert "\x1b" not in str(error)
    assert "\u202e" not in str(error)
    assert '"\\e[2J"' in error.message


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidPolicyError, match="can't be read: No such file"):
        load_policy(tmp_path / "missing.toml")
    with pytest.raises(InvalidPolicyError, match="unknown kind of file"):
        load_policy(tmp_path / "policy.json")
    (tmp_path / "dir.toml").mkdir()
    with pytest.raises(InvalidPolicyError, match="regular file"):
        load_policy(tmp_path / "dir.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InvalidPolicyError, match="not a regular file"):
        load_policy(tmp_path / "pipe.toml")
    (tmp_path / "latin.toml").write_bytes(b"schema_version = 1\n# \xe9\n")
    with pytest.raises(InvalidPolicyError, match=r"latin\.toml:2:3: not UTF-8"):
        load_policy(tmp_path / "latin.toml")
    (tmp_path / "big.toml").write_bytes(b"schema_version = 1\n" + b"#" * 2**20)
    with pytest.raises(InvalidPolicyError, match="larger than 1024 KiB"):
        load_policy(tmp_path / "big.toml")


def test_yaml_without_pyyaml_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError) as caught:
        loads_policy("schema_version: 1", "yaml")
    assert caught.value.hint == "pip install 'jubako[yaml]'"
    assert caught.value.code == "missing-extra"


def read(text: str, form: Any) -> Policy | InvalidPolicyError:
    try:
        return loads_policy(text, form)
    except InvalidPolicyError as error:
        return error


@given(st.text(max_size=200), st.sampled_from(["toml", "yaml"]))
def test_any_text_is_a_policy_or_an_invalid_one(text: str, form: str) -> None:
    found = read(("schema_version = 1\n" if form == "toml" else "schema_version: 1\n") + text, form)
    assert isinstance(found, Policy) or found.details["problems"]


WORDS = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Policy.model_fields, "source", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Policy.model_fields]), WORDS))
def test_any_shape_is_a_policy_or_an_invalid_one(data: dict[str, object]) -> None:
    text = json.dumps({**data, "schema_version": 1})
    text = text.replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf")
    found = read(text, "yaml")
    assert isinstance(found, Policy) or found.details["problems"]
