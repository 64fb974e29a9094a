from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jubako._lib.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("日本語 é", "日本語 é"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("\x1b[2Jgone", "\\e[2Jgone"),
        ("\x9b31m", "\\x9b31m"),
        ("\x07\x00\x7f", "\\x07\\x00\\x7f"),
        ("evil\u202etxt.exe", "evil\\u202etxt.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028sep", "line\\u2028sep"),
        ("\udcff", "\\udcff"),
        ("\U000e0001tag", "\\U000e0001tag"),
        ("back\\slash", "back\\slash"),
        (b"caf\xc3\xa9 \xff\x1b", "café \\xff\\e"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown


def test_a_cut_shows() -> None:
    assert printable("abcdef", 4) == "abc…"
    assert printable("abcd", 4) == "abcd"
    assert printable("\n\n\n", 4) == "\\n\\…"
    assert printable("abc", 0) == ""
    assert printable(b"x" * 10_000_000, 5) == "xxxx…"


def test_kept_characters_pass() -> None:
    assert printable("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\e"


@given(st.text() | st.binary(), st.integers(0, 60))
def test_the_result_is_printable_and_bounded(text: str | bytes, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    assert not {unicodedata.category(item) for item in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    shown.encode()


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_is_unchanged(text: str) -> None:
    assert printable(text, 10_000) == text
