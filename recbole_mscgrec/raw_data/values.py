"""Texts, prices, image addresses and times of raw data, cleaned for an atomic file."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from logging import getLogger
from math import isfinite
from typing import Any

from recbole_mscgrec.raw_data.records import BadLine

_VIDEO = re.compile(r"\[\[VIDEOID:[^\]]*\]\]", re.IGNORECASE)
_LINK = re.compile(r"\[\[ASIN:\w+\s*([^\]]*)\]\]", re.IGNORECASE)
_CODE = re.compile(r"<(script|style)\b.*?(</\1\s*>|\Z)|<!--.*?(-->|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_ENTITY = re.compile(r"&(#\d+|#[xX][0-9a-fA-F]+|\w+);")
_SPACES = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff]+")
_QUOTES = re.compile('""+')
_SURROGATES = re.compile("[\ud800-\udfff]")
_PRICE = re.compile(
    r"(?:from )?(?:[$€£]|US\$|USD)?\s*(\d[\d,]*(?:\.\d+)?)\s*(?:-.*)?$", re.IGNORECASE
)
_SIGN = r"(?:US\$|USD|EUR|[$€£])"
_NUMBER = re.compile(
    rf"(?:from )?([+-]?)\s*{_SIGN}?\s*([+-]?[\d.,]+(?:e[+-]?\d+)?)\s*{_SIGN}?(?:\s-\s.*)?",
    re.IGNORECASE | re.ASCII,
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{2,3})*,\d{3}(\.\d*)?")  # 1,299 and 1,299.00
_DECIMAL_COMMA = re.compile(r"(\d*|\d{1,3}(\.\d{3})+),\d+")  # 12,50 and 1.299,00
_FRACTION = re.compile(r"\.(\d+)")
# 20230115, and 2023011510, 202301151030 and 20230115103000 with a time of day
_COMPACT_DATE = re.compile(
    r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])([0-5]\d){0,2})?"
)
_FIRST_OF_LIST = re.compile(r"\s*\[\s*(?:'([^']+)'|\"([^\"]+)\"|([^,\]]+))")  # in a csv cell
_NOTHING = frozenset({"", "null", "none", "nan", "n/a", "[]", "{}"})

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MAX = 2**63 - 1
_SECOND = 10**9
_COUNTERS = 10**8  # numbers up to here are times of any unit; seconds above are dates since 1973


class Cleaner:
    """Turns raw values into one line of plain text, and counts what it removed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def text(self, value: Any, separator: str = " ") -> str:
        """A text, list or number as one line; '' if there is no value."""
        if value is None or isinstance(value, (bool, dict)):
            return ""
        if isinstance(value, (list, tuple)):
            parts = [self.text(part, separator) for part in _flat(value)]
            return _QUOTES.sub('"', separator.join(dict.fromkeys(filter(None, parts))))
        return self._line(str(value))

    def number(self, value: Any, column: str) -> str:
        """A number of a column. Other values become '' and are counted; the first one is logged."""
        if value is None or str(value).strip().lower() in _NOTHING:
            return ""
        if found := _number_of(value):
            return found
        what = f"cells of the number column {column} that are not numbers, left empty"
        if not self.counts[what]:
            getLogger().warning(
                f"The value {value!r:.60} of the number column {column} is not a number. Such "
                "cells are left empty and counted on the data card; --text reads a column as text."
            )
        self.counts[what] += 1
        return ""

    def _line(self, text: str) -> str:
        if "[[" in text:
            shorter = _LINK.sub(r"\1", _VIDEO.sub(" ", text))
            self.counts["[[VIDEOID]] and [[ASIN]] marks removed"] += shorter != text
            text = shorter
        if "<" in text or "&" in text:
            cleaned = _without_html(text)
            self.counts["texts with HTML tags or entities cleaned"] += cleaned != text
            text = cleaned
        text = _SPACES.sub(" ", text).strip()
        if text.lower() in _NOTHING:
            return ""
        if not text.isascii():
            text = _SURROGATES.sub("\ufffd", text)
        # The reader of atomic files would take doubled quotes for csv's.
        return _QUOTES.sub('"', text)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _without_html(text: str) -> str:
    for _ in range(3):  # entities of entities: &amp;quot;
        before = text
        text = _TAG.sub(" ", _CODE.sub(" ", text))
        if _ENTITY.search(text):
            text = html.unescape(text)
        if text == before:
            break
    return text


def _number_of(value: Any) -> str:
    """A number without currency and with a decimal point, the first one of a range; '' if there is
    none. Signs, exponents and decimal commas are read."""
    match = _NUMBER.fullmatch(str(value).strip())
    if isinstance(value, (bool, list, dict)) or not match:
        return ""
    digits, exponent, power = match[2].lower().partition("e")
    sign = digits[:1] if digits[:1] in ("+", "-") else ""
    digits = digits.removeprefix(sign)
    if _THOUSANDS.fullmatch(digits):
        digits = digits.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(digits):
        digits = digits.replace(".", "").replace(",", ".")
    try:
        found = float(match[1] + sign + digits + exponent + power)
    except ValueError:
        return ""
    return repr(found) if isfinite(found) else ""


def price_of(value: Any) -> str:
    """A price as a number, the lower one of a range; '' if there is none."""
    if value is None or isinstance(value, (bool, list, dict)):
        return ""
    match = _PRICE.match(str(value).strip())
    return repr(float(match[1].replace(",", ""))) if match else ""


def address_of(*candidates: Any) -> str:
    """The first web address among the candidates, which may be lists; '' if there is none."""
    for value in candidates:
        if isinstance(value, list):
            value = address_of(*value)
        if isinstance(value, str) and (listed := _FIRST_OF_LIST.match(value)):
            value = listed[1] or listed[2] or listed[3]
        if isinstance(value, str) and (text := value.strip()).startswith(("http://", "https://")):
            return re.sub(r"[\x00-\x1f]", "", text).replace(" ", "%20").replace('"', "%22")
    return ""


def filled(columns: Iterable[str], values: dict[str, str]) -> list[str]:
    """The values of an item in the order of the columns."""
    return [values.get(column, "") for column in columns]


class Times:
    """Reads times as nanoseconds since 1970: numbers in one unit, or dates.

    Args:
        unit: s, ms, us or ns; or 'auto': the unit that fits the first number of the data.
        pattern: the format of dates for `datetime.strptime`; without one they are ISO dates. Dates
            without a time zone are UTC.
    """

    def __init__(self, unit: str = "auto", pattern: str | None = None) -> None:
        self.unit, self._pattern, self._given = unit, pattern, unit != "auto"

    def __call__(self, value: Any) -> int:
        """Raises BadLine."""
        if isinstance(value, datetime):
            return _nanoseconds(value)
        if value is None or isinstance(value, (bool, list, dict)) or value == "":
            raise BadLine("the time is missing.")
        if self._pattern is not None:
            return self._date(str(value))
        if isinstance(value, int):
            return self._number(value, value)
        text = str(value).strip()
        try:
            return self._number(int(text), value)
        except BadLine:
            raise
        except ValueError:
            pass
        try:
            return self._number(Decimal(text), value)
        except InvalidOperation:
            return self._date(text)

    def _number(self, number: int | Decimal, value: Any) -> int:
        if isinstance(number, Decimal) and not number.is_finite():
            raise BadLine(f"the time {value!r} is not a finite number.")
        unit = _unit_of(number)
        if self.unit == "auto" and _COMPACT_DATE.fullmatch(str(number)):
            pattern = "%Y%m%d%H%M%S"[: len(str(number)) - 2]
            raise BadLine(
                f"the time {value!r} may be a date or a number: name --time_format={pattern} or "
                f"--time_unit={unit}."
            )
        if self.unit == "auto" and number:
            self.unit = unit
        elif not self._given and unit != self.unit and not _within(number, _COUNTERS):
            raise BadLine(
                f"the time {value!r} looks like {unit}, but earlier ones like {self.unit}: name "
                "the unit with --time_unit."
            )
        per_unit = _SECOND // _PER_SECOND.get(self.unit, 1)
        # Compare first: as an integer, 1e999999999 would fill the memory.
        found = int(number * per_unit) if _within(number, _MAX) else _MAX + 1
        return _in_range(found, f"{value!r:.60} in {self.unit}")

    def _date(self, text: str) -> int:
        try:
            if self._pattern is not None:
                return _nanoseconds(datetime.strptime(text, self._pattern))
            # Python 3.10 reads neither Z nor fractions without exactly 3 or 6 digits.
            iso = f"{text[:-1]}+00:00" if text[-1:] in "Zz" else text
            iso = _FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", iso)
            return _nanoseconds(datetime.fromisoformat(iso))
        except BadLine:
            raise
        except ValueError as error:
            rule = f"a date in the format {self._pattern}" if self._pattern else "an ISO date"
            raise BadLine(
                f"the time {text!r:.60} is neither a number nor {rule}: name its format with "
                "--time_format, such as '%d/%m/%Y'."
            ) from error

    @property
    def described(self) -> str:
        """The format of the times, for the card."""
        if self._pattern:
            return f"dates in the format {self._pattern}, UTC unless they name a zone"
        if self.unit == "auto":
            return "ISO dates, UTC unless they name a zone"
        return f"numbers in {self.unit}" + ("" if self._given else " (detected)")


def seconds(time: int) -> str:
    """Nanoseconds as exact decimal seconds, without trailing zeros."""
    whole, rest = divmod(abs(time), _SECOND)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{'-' if time < 0 else ''}{whole}{fraction}"


def _unit_of(number: int | Decimal) -> str:
    """The unit in which a number is a date of our time; small counters count as seconds."""
    limits = {"s": 10**11, "ms": 10**14, "us": 10**17}
    return next((unit for unit, limit in limits.items() if _within(number, limit)), "ns")


def _within(number: Any, limit: int) -> bool:
    return bool(-limit <= number <= limit)  # abs() of a Decimal may overflow


def _nanoseconds(date: datetime) -> int:
    date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    since = date - datetime(1970, 1, 1, tzinfo=timezone.utc)
    whole: int = since.days * 86_400 + since.seconds
    found = (whole * 10**6 + since.microseconds) * 1000 + getattr(since, "nanoseconds", 0)
    return _in_range(found, str(date))


def _in_range(time: int, told: str) -> int:
    """The time, if it fits into 64 bits. Raises BadLine otherwise."""
    if not _within(time, _MAX):
        raise BadLine(f"the time {told} is before the year 1678 or after the year 2262.")
    return time
