"""Texts, prices and times of raw data."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from recbole_mscgrec.raw_data.records import BadLine
from recbole_mscgrec.raw_data.values import Cleaner, Times, address_of, price_of, seconds

S = 10**9


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ("null", ""),
        ([], ""),
        ({"a": 1}, ""),
        (12, "12"),
        ("a<br />b", "a b"),
        ("<b>bold</b> &amp; <i>thin</i>", "bold & thin"),
        ("&amp;quot;x&amp;quot;", '"x"'),
        ("&lt;br&gt;a", "a"),
        ("3 < 5 and 7 > 6", "3 < 5 and 7 > 6"),
        ("AT&T R&D;", "AT&T R&D;"),
        ("a<script>var x = 1 < 2;</script>b", "a b"),
        ("a<!-- no -->b", "a b"),
        ("see [[VIDEOID:abc123]] here", "see here"),
        ("like [[ASIN:B00 the old one]]", "like the old one"),
        ("tab\tand\r\nbreak\u2028here\x00", "tab and break here"),
        ('5"" disk', '5" disk'),
        ("half \ud83d pair", "half \ufffd pair"),
        (["a", None, "b", "a"], "a b"),
        ([["x", "y"], ["x", "z"]], "x y z"),
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
    ],
)
def test_a_text_becomes_one_plain_line(value: Any, expected: str) -> None:
    assert Cleaner().text(value) == expected


def test_what_is_removed_is_counted() -> None:
    cleaner = Cleaner()
    for value in ("a<br>b", "AT&T", "[[VIDEOID:1]]", "plain", "x &amp; y"):
        cleaner.text(value)
    assert sorted(cleaner.counts.values()) == [1, 2]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12.99, "12.99"), (7, "7.0"), ("$12.99", "12.99"), ("$1,012.99", "1012.99"),
        ("$5.00 - $12.99", "5.0"), ("from 7.50", "7.5"), ("", ""), (None, ""), ("\u2014", ""),
        (".a-box-inner{color:#fff}", ""), (True, ""), (float("nan"), ""), ("0.99", "0.99"),
        ("12 pieces", ""),
    ],
)  # fmt: skip
def test_prices(value: Any, expected: str) -> None:
    assert price_of(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12,50", 12.5), ("9,99", 9.99), ("-33.9", -33.9), ("5e-3", 0.005), (".5", 0.5),
        ("+3", 3), ("1e3", 1000), (1e-05, 1e-05), (-2.0, -2), (1e17, 1e17), (7, 7),
        (Decimal("1.5"), 1.5), ("1,299", 1299), ("1,234,567", 1234567), ("1,299.50", 1299.5),
        ("1.299,00", 1299), ("1.234.567,8", 1234567.8), ("0,125", 0.125), ("1,2345", 1.2345),
        ("-1,5E+02", -150), (" 7 ", 7), ("$7.50", 7.5), ("-$1,299", -1299), ("12,50 \u20ac", 12.5),
        ("$5.00 - $12.99", 5), ("from 7.50", 7.5),
    ],
)  # fmt: skip
def test_numbers(value: Any, expected: float) -> None:
    cleaner = Cleaner()
    assert float(cleaner.number(value, "weight")) == expected and not cleaner.counts


def test_what_is_no_number_is_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    cleaner = Cleaner()
    for value in ("", None, "null", " ", "NaN"):
        assert cleaner.number(value, "weight") == ""
    assert not cleaner.counts and not caplog.records
    wrong = ["12 pieces", "2020-05-05", "1_000", "inf", "1e999", "1,2.5", 10**400, True, [1]]
    for value in wrong:
        assert cleaner.number(value, "weight") == ""
    assert list(cleaner.counts.values()) == [len(wrong)]
    assert [r.getMessage() for r in caplog.records] == [
        "The value '12 pieces' of the number column weight is not a number. Such cells are left "
        "empty and counted on the data card; --text reads a column as text."
    ]


def test_addresses() -> None:
    assert (
        address_of(None, "", ["ftp://x", " https://x/a\tb.jpg\n"], "https://y")
        == "https://x/ab.jpg"
    )
    assert address_of('https://x/my "best" photo.jpg') == "https://x/my%20%22best%22%20photo.jpg"
    assert address_of("no address", []) == ""


@pytest.mark.parametrize(
    "cell",
    ["['https://x/a b', 'https://x/c']", '["https://x/a b"]', "[https://x/a b, https://x/c]"],
)
def test_a_list_of_addresses_in_a_csv_cell(cell: str) -> None:
    assert address_of(cell) == "https://x/a%20b"


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("auto", "1588687728", 1588687728 * S),
        ("auto", 1588687728923, 1588687728923 * 10**6),
        ("auto", "1588687728923000001", 1588687728923000001),
        ("auto", 1588687728.5, 1588687728 * S + S // 2),
        ("auto", "1588687728.123456789", 1588687728123456789),
        ("auto", "17", 17 * S),
        ("ms", "17", 17 * 10**6),
        ("auto", "1.5e9", 15 * 10**8 * S),
        ("auto", "-86400", -86400 * S),
        ("auto", "2020-05-05T14:08:48Z", 1588687728 * S),
        ("auto", "2020-05-05 16:08:48.5+02:00", 1588687728 * S + S // 2),
        ("auto", "2020-05-05", 1588636800 * S),
        ("auto", datetime(2020, 5, 5, 14, 8, 48), 1588687728 * S),
        ("auto", date(2020, 5, 5), 1588636800 * S),
        ("auto", Decimal("1588687728.5"), 1588687728 * S + S // 2),
        ("auto", datetime(2020, 5, 5, 16, tzinfo=timezone(timedelta(hours=2))), 1588687200 * S),
    ],
)
def test_times_are_exact(unit: str, value: Any, expected: int) -> None:
    assert Times(unit)(value) == expected


@pytest.mark.parametrize(
    "value",
    ["", None, "nan", "inf", "05/21/2014", "soon", True, "1e400", "1e999999999", "9" * 5000, []],
)
def test_what_is_no_time(value: Any) -> None:
    with pytest.raises(BadLine, match="time"):
        Times()(value)


@pytest.mark.parametrize(
    "value",
    [
        "9999-12-31", "0001-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "1600-01-01",
        datetime(2300, 1, 1), date(2300, 1, 1), -(10**11), "-1e11",
    ],
)  # fmt: skip
def test_times_that_64_bits_do_not_hold(value: Any) -> None:
    with pytest.raises(BadLine, match="is before the year 1678 or after the year 2262"):
        Times()(value)
    if not isinstance(value, datetime):
        with pytest.raises(BadLine, match="time"):
            Times("auto", "%Y-%m-%d")(value)


def test_the_unit_is_that_of_the_first_time() -> None:
    times = Times()
    assert times("0") == 0 and times("1588687728") == 1588687728 * S
    assert times.described == "numbers in s (detected)"
    with pytest.raises(BadLine, match="looks like ms, but earlier ones like s: .*--time_unit"):
        times("1588687728923")
    times = Times()
    assert times(1588687728923) == 1588687728923 * 10**6 and times(5) == 5 * 10**6
    with pytest.raises(BadLine, match="looks like s, but earlier ones like ms: .*--time_unit"):
        times("1588687728")
    assert Times("ms")(1588687728) == 1588687728 * 10**6
    times = Times()
    times(1588687728923000)
    with pytest.raises(BadLine, match="looks like ms, but earlier ones like us"):
        times(1588687728923)
    with pytest.raises(BadLine, match="after the year 2262"):
        Times("s")(10**12)


def test_a_compact_date_is_no_number_of_seconds_unless_one_says_so() -> None:
    times = Times()
    for value in ("20230115", 20230115):
        with pytest.raises(BadLine, match="20230115.* --time_format=%Y%m%d or --time_unit=s"):
            times(value)
    assert Times("auto", "%Y%m%d")("20230115") == 1673740800 * S
    assert Times("s")("20230115") == 20230115 * S
    assert times("20231315") == 20231315 * S  # no month 13
    assert times("20230115") == 20230115 * S  # one of many numbers


@pytest.mark.parametrize(
    ("value", "pattern", "unit"),
    [(2023011510, "%Y%m%d%H", "s"), ("202301151030", "%Y%m%d%H%M", "ms"),
     (20230115103059, "%Y%m%d%H%M%S", "ms")],
)  # fmt: skip
def test_a_compact_date_with_a_time_of_day_is_no_number_either(
    value: object, pattern: str, unit: str
) -> None:
    """As a number, 202301151030 is a time of 1976."""
    with pytest.raises(BadLine, match=f"{value}.* --time_format={pattern} or --time_unit={unit}"):
        Times()(value)
    assert Times(pattern=pattern)(value) // 10**9 // 3600 == 464938
    assert Times()(202301152530) == 202301152530 * 10**6  # no hour 25


def test_a_given_form_of_dates() -> None:
    times = Times("auto", "%d/%m/%Y %H:%M")
    assert times("05/05/2020 14:08") == 1588687680 * S
    with pytest.raises(BadLine, match="neither a number nor a date in the format %d"):
        times("2020-05-05")


@pytest.mark.parametrize("time", [0, 1, -1, S, 1588687728923 * 10**6, -3 * S // 2, 2**63 - 1])
def test_seconds_have_all_digits_and_no_more(time: int) -> None:
    text = seconds(time)
    assert Decimal(text) == Decimal(time) / S and (text[-1] != "0" or "." not in text)
