"""The line index of TOML: right lines for what ``tomllib`` reads, and no crash on anything."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from jubako.policy._toml_lines import TooDeepError, toml_places

# Values over one or more lines that look like everything a scanner could mistake for structure.
SINGLE = (
    "1", "0x1F", "3.5e7", "inf", "true", "1979-05-27 07:32:00Z", '"a # b"', '"\\" = ] }"', "'k0 = [ \"'", '""', "''",
    '"""k0 = 1"""', "'''[k0]'''", '"""a""""', "'''a'''''", '"""\\""""""', '"\\\\"',
)  # fmt: skip
LONG = (
    '"""\nk0 = 1\n[k0]\n"""', "'''\n''k0' = \"\"\"\n'''", '"""a\\\n   b"""', "[\n  1, # ]\n\n  2,\n]",
    "[ [], [1], ['''\n]''', 2] ]",
)  # fmt: skip
KEYS = ("alpha", "b-1", '"quo ted"', "'lit.eral'", '"tab\\t\\u00e9"', "9")
PLAIN = {'"quo ted"': "quo ted", "'lit.eral'": "lit.eral", '"tab\\t\\u00e9"': "tab\té"}


class Writer:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.count = 0

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def name(self, prefix: tuple[str | int, ...]) -> tuple[str, tuple[str | int, ...]]:
        """A key that is new: a tricky one with a number behind it, dotted now and then."""
        self.count += 1
        spelled = f"k{self.count}"
        path = (*prefix, spelled)
        if self.flip():
            key = self.draw(st.sampled_from(KEYS))
            spelled += self.draw(st.sampled_from([".", " . ", ".\t"])) + key
            path += (PLAIN.get(key, key),)
        return spelled, path

    def note(self, path: tuple[str | int, ...]) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def blank(self) -> None:
        self.text += self.draw(st.sampled_from(["", "\n", "# k0 = '''\n", "   ", "\t\n\n"]))

    def pair(self, prefix: tuple[str | int, ...]) -> None:
        self.blank()
        spelled, path = self.name(prefix)
        self.note(path)
        self.text += f"{spelled} = "
        self.value(path)
        self.text += self.draw(st.sampled_from(["\n", " # [k0]\n", "\r\n"]))

    def value(self, path: tuple[str | int, ...], depth: int = 0) -> None:
        kind = self.draw(st.sampled_from(["single", "long", "table", "tables"] if depth < 2 else ["single"]))
        if kind == "single":
            self.text += self.draw(st.sampled_from(SINGLE))
        elif kind == "long":
            self.text += self.draw(st.sampled_from(LONG))
        elif kind == "table":
            self.table(path, depth)
        else:
            self.text += "["
            for index in range(self.draw(st.integers(0, 3))):
                self.text += self.draw(st.sampled_from(["", "\n", " # ]\n  "]))
                self.note((*path, index))
                self.table((*path, index), depth)
                self.text += ","
            self.text += "]"

    def table(self, path: tuple[str | int, ...], depth: int) -> None:
        self.text += "{ "
        for index in range(self.draw(st.integers(0, 2))):
            self.text += ", " if index else ""
            spelled, below = self.name(path)
            self.note(below)
            self.text += f"{spelled}="
            self.value(below, depth + 1)
        self.text += " }"


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str | int, ...], int]]:
    writer = Writer(draw)
    for _ in range(draw(st.integers(0, 2))):
        writer.pair(())
    arrays: list[tuple[str, tuple[str | int, ...], int]] = []
    for _ in range(draw(st.integers(0, 4))):
        writer.blank()
        if arrays and writer.flip():
            spelled, path, index = arrays.pop()
            index += 1
            arrays.append((spelled, path, index))
            prefix = (*path, index)
            writer.note(prefix)
            writer.text += f"[[ {spelled} ]]\n"
        else:
            spelled, path = writer.name(())
            writer.note(path)
            if writer.flip():
                arrays.append((spelled, path, 0))
                prefix = (*path, 0)
                writer.note(prefix)
                writer.text += f"[[{spelled}]] # x\n"
            else:
                prefix = path
                writer.text += f"[{spelled}]\n"
        for _ in range(draw(st.integers(0, 3))):
            writer.pair(prefix)
        if arrays and writer.flip():
            spelled, path, index = arrays[-1]
            inner, below = writer.name((*path, index))
            writer.note(below)
            writer.text += f"[{spelled}.{inner}]\n"
            writer.pair(below)
    return writer.text, writer.lines


def at(data: Any, path: tuple[str | int, ...]) -> object:
    for part in path:
        data = data[part]
    return data


@given(documents())
def test_every_key_and_element_has_its_line(document: tuple[str, dict[tuple[str | int, ...], int]]) -> None:
    text, lines = document
    data = tomllib.loads(text)
    places = toml_places(text)
    for path, line in lines.items():
        at(data, path)  # the writer and tomllib agree on what the text says
        assert places[path][0] == line, path


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [path, *(below for key, item in value.items() for below in paths(item, (*path, key)))]
    if isinstance(value, list):
        return [path, *(below for index, item in enumerate(value) for below in paths(item, (*path, index)))]
    return [path]


@given(documents())
def test_the_index_names_exactly_what_tomllib_read(document: tuple[str, object]) -> None:
    text, _ = document
    assert set(toml_places(text)) | {()} == set(paths(tomllib.loads(text)))


@given(st.text(alphabet="ab.=[]{}\"'#\\\n\r\t ,1é", max_size=200))
@example('a = """')
@example("a = '")
@example("[[a]]\n[a]")
@example("a = {")
@example('"\\u" = 1')
@example("a = [" * 5000)
@example("a = " + "[" * 5000)
@example("a" + ".a" * 3000 + " = 1")
def test_nothing_makes_it_crash(text: str) -> None:
    try:
        places = toml_places(text)
    except TooDeepError as error:
        places = {(): error.place}
    for line, column in places.values():
        assert 1 <= line <= text.count("\n") + 1
        assert column >= 1


@given(st.text(max_size=300))
def test_no_text_at_all_makes_it_crash(text: str) -> None:
    toml_places(text)


@given(st.text(alphabet="ab.=[]{}\"'#\n ,1", max_size=60))
def test_what_tomllib_accepts_is_indexed_in_full(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(toml_places(text)) | {()} == set(paths(data))
