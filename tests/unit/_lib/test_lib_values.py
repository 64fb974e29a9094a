"""Units, ids and canonical JSON."""

from __future__ import annotations

import json
import math
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jubako._lib.ids import IdSource, new_id, short_id
from jubako._lib.jsontext import canonical, digest, parse_object
from jubako._lib.units import format_seconds, format_size, parse_seconds, parse_size

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512MiB", 2**29),
        (" 1.5 GB ", 1_500_000_000),
        ("10k", 10240),
        ("1kb", 1000),
        ("7 B", 7),
        ("1.5KiB", 1536),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("250ms", 0.25), ("5m", 300), ("1.5h", 5400), ("2 d", 172800)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1 XB", "1e9", "0x10", "1,5 GB", "1" * 19, "inf", "1 MiB MiB", "٣"])
def test_what_is_no_size_and_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
    with pytest.raises(ValueError, match="is not a time"):
        parse_seconds(text)


@pytest.mark.parametrize("value", [5, 1.5, None, True, [1]])
def test_other_types_pass(value: object) -> None:
    assert parse_size(value) is value
    assert parse_seconds(value) is value


def test_sizes_and_times_read_well() -> None:
    assert [format_size(count) for count in (0, 1023, 1024, 1536, 2**29, 2**30, 5 * 2**40)] == [
        "0 B", "1023 B", "1 KiB", "1.5 KiB", "512 MiB", "1 GiB", "5 TiB",
    ]  # fmt: skip
    assert [format_seconds(value) for value in (0.25, 1, 4.2, 60, 90, 3600, 86400)] == [
        "250 ms", "1 s", "4.2 s", "1 min", "1.5 min", "1 h", "1 d",
    ]  # fmt: skip


@given(st.integers(0, 2**53))
def test_a_size_survives_being_written_in_bytes(count: int) -> None:
    assert parse_size(str(count)) == count
    written = parse_size(format_size(count))
    assert isinstance(written, int)
    assert math.isclose(written, count, rel_tol=1e-3, abs_tol=1)


@given(JSON)
def test_canonical_json_is_one_line_of_ascii_that_comes_back(value: object) -> None:
    text = canonical(value)
    assert text.isascii()
    assert b"\n" not in text
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text


def test_canonical_json_sorts_and_refuses_nan() -> None:
    assert canonical({"b": 1, "a": [1, {"d": 1, "c": None}]}) == b'{"a":[1,{"c":null,"d":1}],"b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical(math.nan)
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({"a": 2}).startswith("sha256:")


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b"{", b"\xff", b'{"a":' * 100_000, b"null"])
def test_what_is_no_object(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the decoder's own words differ
        parse_object(text)


def test_ids_are_uuids_of_version_7_near_now() -> None:
    found = uuid.UUID(new_id())
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert abs((found.int >> 80) / 1000 - time.time()) < 60


def test_ids_of_one_source_grow_in_every_thread() -> None:
    source, made = IdSource(), []
    lock = threading.Lock()

    def work() -> None:
        mine = [source() for _ in range(2000)]
        assert mine == sorted(mine)
        with lock:
            made.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000


def test_ids_grow_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    source = IdSource()
    first = source()
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert source() > first


def test_short_ids_are_easy_to_read() -> None:
    made = {short_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(item) == 12 and not set(item) & set("ilou") for item in made)
