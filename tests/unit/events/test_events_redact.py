from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jubako.events import TOKEN_SHAPES, ExecStarted, LimitReached, PolicyRelaxed, Redactor

SECRET = "hunter2-Ünique/+&value"
WORD = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t0"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nabc\n-----END RSA PRIVATE KEY-----"

EXAMPLES = {
    "aws-key": ["AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"],
    "aws-secret": [f"aws_secret_access_key = {WORD}", f'AWS_SECRET_ACCESS_KEY="{WORD}'],
    "github-token": [f"ghp_{WORD[:36]}", f"ghs_{WORD}", "github_pat_" + "1A" * 11 + "_" + WORD],
    "gitlab-token": ["glpat-ABCdef123456_7890-xyz", "glrt-" + WORD],
    "slack-token": ["xoxb-123456789012-abcdefABCDEF", "xapp-1-A0123456789-abc"],
    "slack-webhook": ["https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXX"],
    "openai-key": ["sk-proj-" + WORD, "sk-" + WORD],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_", "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."],
    "private-key": [PEM, PEM[:40], PEM.replace("RSA ", ""), PEM.replace("RSA ", "OPENSSH ")],
    "url-credentials": ["https://user:pa55word@example.org/x", "postgres://tok3n@db/x", "redis://:p@h"],
}


def test_there_is_an_example_of_every_shape() -> None:
    assert set(EXAMPLES) == {shape.name for shape in TOKEN_SHAPES}


@pytest.mark.parametrize(("name", "token"), [(name, token) for name, tokens in EXAMPLES.items() for token in tokens])
def test_well_known_tokens_are_replaced(name: str, token: str) -> None:
    clean = Redactor().text(f"before {token} after")
    assert f"[redacted:{name}]" in clean
    assert clean.startswith("before ")
    if "BEGIN" not in token or "END" in token:
        assert clean.endswith(" after")
    secret = token.partition("://")[2].partition("@")[0] if name == "url-credentials" else token[-16:]
    assert secret not in clean


@pytest.mark.parametrize(
    "text",
    [
        "python3 -c print(1)", "risk-free sk-8", "https://example.org/a@b", "ghost gh_ glpat", "AKIA and AKIAX",
        "eyJ.eyJ.x",
        "mailto:someone@example.org", "git@example.org:repo.git", "xoxo", "a" * 4096, "-----BEGIN PUBLIC KEY-----", "",
        "https://example.org/?q=user:pw@x", "日本語",
    ],
)  # fmt: skip
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET, safe="").replace("%20", "+"),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
    ],
)
def test_known_values_are_replaced_in_every_spelling(spelling: str) -> None:
    clean = Redactor([SECRET]).text(f"curl -H 'Token: {spelling}' | x")
    assert spelling not in clean
    assert clean.startswith("curl -H 'Token: [redacted]")


def test_a_value_inside_another_leaves_nothing_standing() -> None:
    assert Redactor(["secret", "secret-and-more"]).text("x=secret-and-more") == "x=[redacted]"


def test_very_short_values_are_left_out() -> None:
    assert Redactor(["", "abc"]).text("abcdef") == "abcdef"


@given(st.text(min_size=4, max_size=60), st.text(max_size=60), st.integers(8, 120))
def test_a_known_value_never_comes_through(secret: str, noise: str, limit: int) -> None:
    clean = Redactor([secret], ()).text(f"{noise}{secret}{noise}", limit)
    assert len(clean.encode()) <= limit
    assert secret not in clean.replace("[redacted]", "\0")


@pytest.mark.parametrize("before", range(80, 101))
def test_a_secret_across_the_cut_leaves_no_first_half(before: int) -> None:
    clean = Redactor(["correct horse battery"]).text("x" * before + "correct horse battery staple", 100)
    assert "corr" not in clean
    assert len(clean.encode()) <= 100


@given(st.lists(st.text(max_size=3000), max_size=40))
def test_arguments_are_bounded_in_all(argv: list[str]) -> None:
    clean = Redactor().items(tuple(argv))
    assert sum(len(item.encode()) for item in clean) <= 4096 + 16
    assert len(clean) <= max(len(argv), 1)
    if sum(len(item.encode("utf-8", "surrogatepass")) + 1 for item in argv) < 2000:
        assert clean == Redactor().items(clean)


def test_what_is_cut_off_is_counted() -> None:
    clean = Redactor().items(("a" * 4000, "b" * 200, "c", "d"))
    assert clean[1].endswith("b…")
    assert clean[2] == "… 2 more"
    assert sum(map(len, clean[:2])) <= 4096
    assert Redactor().items(("x",) * 1000)[-1] == "… 744 more"


def test_a_huge_argument_is_cheap() -> None:
    """200 KB of text that looks like the beginning of everything must not take quadratic time."""
    for piece in ("://", "eyJ", "sk-", "-----BEGIN PRIVATE KEY-----", "://a:", "AKIA", "aws_secret_access_key="):
        assert len(Redactor([SECRET]).text(piece * (200_000 // len(piece)))) <= 4096


def test_every_string_of_an_event_is_cleaned() -> None:
    redactor = Redactor([SECRET])
    data = ExecStarted(exec="e1", argv=("curl", "-H", f"Authorization: {SECRET}"), cwd=f"/{SECRET}")
    clean = redactor.data(data)
    assert isinstance(clean, ExecStarted)
    assert clean.argv == ("curl", "-H", "Authorization: [redacted]")
    assert clean.cwd == "/[redacted]"
    relaxed = redactor.data(PolicyRelaxed(kind="k", subject="s", reason="y" * 9000))
    assert isinstance(relaxed, PolicyRelaxed)
    assert relaxed.reason == "y" * 4093 + "…"
    assert ExecStarted.model_validate(clean.model_dump()) == clean


def test_nothing_is_copied_when_nothing_changes() -> None:
    data: Any = LimitReached(control="resource.memory")
    assert Redactor([SECRET]).data(data) is data


def test_lone_surrogates_become_text() -> None:
    assert Redactor().text("a\udcffb") == "a\\udcffb"
