"""Results, arguments and languages: pure values."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from jubako.boundary.contract import ExitStatus, TerminalSize, Usage
from jubako.errors import (
    CommandFailedError,
    ExecTimeoutError,
    InvalidPolicyError,
    InvalidRequestError,
    OutputLimitError,
)
from jubako.policy import Policy
from jubako.runtime import RunResult
from jubako.runtime.arguments import as_policy, build_request, build_spec, ttl_seconds
from jubako.runtime.languages import LANGUAGES, language_of_file, language_of_name, languages_of_facts

if TYPE_CHECKING:
    from jubako.runtime.arguments import PolicyLike

SECOND = timedelta(seconds=1)
STATUSES = [
    (ExitStatus(0, None), (0, True), None),
    (ExitStatus(3, None), (3, False), CommandFailedError),
    (ExitStatus(None, 15), (143, False), CommandFailedError),
    (ExitStatus(None, 9, oom=True, limits=frozenset({"resource.memory"})), (137, False), CommandFailedError),
    (ExitStatus(None, 9, timed_out=True, limits=frozenset({"time.exec"})), (124, False), ExecTimeoutError),
    (ExitStatus(0, None, truncated=True, limits=frozenset({"resource.output"})), (0, True), OutputLimitError),
    (ExitStatus(127, None, message="no such program"), (127, False), CommandFailedError),
]


@pytest.mark.parametrize(("status", "expected", "error"), STATUSES)
def test_result_says_how_it_ended(
    status: ExitStatus, expected: tuple[int, bool], error: type[CommandFailedError] | None
) -> None:
    result = RunResult.of(status, b"out", b"err", duration=SECOND)
    assert (result.shell_status, result.ok) == expected
    assert result.limit_hits == tuple(sorted(status.limits))
    assert result.document()["limit_hits"] == sorted(status.limits)
    if error is None:
        assert result.check() is result
        return
    with pytest.raises(error) as caught:
        result.check()
    assert caught.value.details["stderr"] == "err"
    assert caught.value.details["exit_code"] == status.code


def test_document_is_json() -> None:
    usage = Usage(datetime.now(UTC), timedelta(seconds=2), 1, 2, 3, None)
    document = json.loads(
        json.dumps(RunResult.of(STATUSES[0][0], b"\xff", b"", duration=SECOND, usage=usage).document())
    )
    assert document["stdout"] == "\ufffd"
    assert document["usage"] == {"cpu": 2.0, "memory": 1, "memory_peak": 2, "processes": 3, "disk": None}
    assert document["duration"] == 1.0


def test_policy_from_everything(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('schema_version = 1\n[resources]\nmemory = "64MiB"\n')
    policy = Policy.model_validate({"resources": {"memory": "64MiB"}})
    for given in (policy, {"resources": {"memory": "64MiB"}}, str(file), file):
        assert as_policy(given) == policy
    assert as_policy(None) == Policy()
    wrongs: list[PolicyLike] = [{"resource": {}}, str(tmp_path / "absent.toml"), "no-such-preset"]
    assert as_policy("locked-down").time.exec == 30
    for wrong in wrongs:
        with pytest.raises(InvalidPolicyError):
            as_policy(wrong)


def test_a_wrong_spec_names_the_field() -> None:
    with pytest.raises(InvalidRequestError, match="labels"):
        build_spec(labels={"not a name": "x"})
    with pytest.raises(InvalidRequestError, match="template"):
        build_spec(template="../etc")


def test_ttl_may_be_less_than_the_policy_says() -> None:
    policy = Policy()
    assert ttl_seconds(None, policy) == 3600
    assert ttl_seconds(timedelta(minutes=1), policy) == 60
    for wrong in (0, -1, 3601, True, float("nan"), float("inf")):
        with pytest.raises(InvalidRequestError):
            ttl_seconds(wrong, policy)


def test_request_takes_its_limits_from_the_policy() -> None:
    policy = Policy.model_validate({"time": {"exec": 20}, "output": {"max_bytes": 5000}})
    request = build_request(["ls"], policy)
    assert (request.timeout, request.max_output) == (timedelta(seconds=20), 5000)
    request = build_request(["ls"], policy, timeout=5, max_output=10, cwd="sub", tty=True, stdin=True, env={"A": "b"})
    assert (request.timeout, request.max_output) == (timedelta(seconds=5), 10)
    assert (request.cwd, request.tty, request.stdin, request.env) == (
        PurePosixPath("sub"),
        TerminalSize(24, 80),
        True,
        {"A": "b"},
    )
    with pytest.raises(InvalidRequestError, match=r"time\.exec") as caught:
        build_request(["ls"], policy, timeout=21)
    assert caught.value.hint == "raise time.exec in the policy"


@pytest.mark.parametrize(
    ("name", "language"),
    [("a.py", "python"), ("b.sh", "bash"), ("c.mjs", "node"), ("Makefile", None), ("d.pyc", None)],
)
def test_language_of_a_file(name: str, language: str | None) -> None:
    found = language_of_file(name)
    assert (found.name if found else None) == language


def test_languages_put_code_where_the_program_expects_it() -> None:
    assert language_of_name("python").command("1") == ("python3", "-c", "1")
    assert language_of_name("bash").file_command("/tmp/x") == ("bash", "/tmp/x")
    assert language_of_name("node").command("1") == ("node", "-e", "1")
    assert list(LANGUAGES) == ["python", "bash", "node", "js"]


def test_javascript_is_what_the_boundary_has() -> None:
    assert language_of_name("javascript").program == "node"
    assert language_of_name("javascript", {"language.node": False, "language.js": True}).program == "js"
    assert language_of_name("javascript", {"language.node": True, "language.js": True}).program == "node"
    assert language_of_file("a.js", {"language.js": True}) == LANGUAGES["js"]
    assert language_of_file("a.mjs") == LANGUAGES["node"]
    assert language_of_file("a.py", {"language.js": True}) == LANGUAGES["python"]
    assert languages_of_facts({"language.python": "3.14", "language.js": True, "language.sh": True}) == ["python", "js"]
