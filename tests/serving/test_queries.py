"""Bodies of requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recbole_mscgrec.serving.batching import Options, Query
from recbole_mscgrec.serving.queries import FIELDS, Limits, parse
from recbole_mscgrec.storage.errors import UserError

LIMITS = Limits(max_histories=3, max_length=4, max_top=20)
ONE = [["a", "b"]]


def parsed(**fields: Any) -> Query:
    return parse(json.dumps(fields).encode(), LIMITS)


def test_defaults() -> None:
    assert parsed(histories=ONE) == Query((("a", "b"),), Options(top=10))
    nulls = {name: None for name in FIELDS if name != "histories"}
    assert parsed(histories=ONE, **nulls) == parsed(histories=ONE)
    assert parsed(histories=[[]]).histories == ((),)  # the model decides on these


def test_every_field() -> None:
    options = {"top": 20, "exclude_seen": True, "beam_size": 5, "fallback": "popular"}
    asked = parsed(histories=[["a"], ["b"]], cold_share=0, allowed=["x"], exclude=["y"], **options)
    assert asked.options == Options(**options, cold_share=0.0)
    assert asked.allowed == ("x",) and asked.exclude == (("y",), ("y",))


def test_filters_for_each_history() -> None:
    two = [["a"], ["b"]]
    assert parsed(histories=two, exclude=[["x"], []]).exclude == (("x",), ())
    assert parsed(histories=two, exclude=[[], []]).exclude is None
    assert parsed(histories=two, exclude=["x", "y", "x"] * 9).exclude == (("x", "y"),) * 2
    assert parsed(histories=two, allowed=["x"] * 9).allowed == ("x",) * 9
    assert parsed(histories=two, exclude=[]).exclude is None
    assert parsed(histories=two, allowed=[]).allowed == ()  # nothing; the model refuses it
    assert parsed(histories=two, allowed=[["x"], []]).allowed_each == (("x",), ())
    assert parsed(histories=two, allowed=[["x"], []]).allowed is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "histories: must be a list of one or more"),
        ({"histories": []}, "histories: must be a list of one or more"),
        ({"histories": "ab"}, "histories: must be a list of one or more"),
        ({"histories": ["ab"]}, 'histories[0]: must be a list of items, not "ab"'),
        ({"histories": [["a"], ["a", 5]]}, 'histories[1][1]: an item is a string such as "50"'),
        ({"histories": [["a"]] * 4}, "histories: 4 are too many for one request; at most 3"),
        ({"histories": [["a"] * 5]}, "histories[0]: 5 items are too many; at most 4"),
        ({"histories": ONE, "topp": 5}, "'topp': no such field; the fields are histories, top"),
        ({"histories": ONE, "top": 0}, "top: must be a whole number from 1 to 20, not 0"),
        ({"histories": ONE, "top": 21}, "top: must be a whole number from 1 to 20, not 21"),
        ({"histories": ONE, "top": "5"}, 'top: must be a whole number from 1 to 20, not "5"'),
        ({"histories": ONE, "top": True}, "top: must be a whole number from 1 to 20, not true"),
        ({"histories": ONE, "top": [1]}, "top: must be a whole number from 1 to 20, not a list"),
        ({"histories": ONE, "beam_size": 1e9}, "beam_size: must be a whole number from 1 to 20"),
        ({"histories": ONE, "exclude_seen": 1}, "exclude_seen: must be true or false, not 1"),
        ({"histories": ONE, "fallback": "x"}, 'fallback: must be "popular" or absent, not "x"'),
        ({"histories": ONE, "cold_share": 1.5}, "cold_share: must be a number from 0 to 1"),
        ({"histories": ONE, "exclude": "a"}, 'exclude: must be a list of items, not "a"'),
        ({"histories": ONE, "exclude": [1]}, "exclude[0]: an item is a string"),
        ({"histories": ONE, "exclude": list("abcde")}, "exclude: 5 items for one history are too"),
        (
            {"histories": ONE, "exclude": [list("abcde")]},
            "exclude: 5 items for one history are too",
        ),
        ({"histories": ONE, "allowed": [["a"], ["b"]]}, "allowed: 2 lists for 1 histories"),
        ({"histories": [["a"]] * 2, "allowed": [["a"], "b"]}, "allowed[1]: must be a list of"),
        ({"histories": ONE, "top": "x" * 500}, '"' + "x" * 59 + "."),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(**fields)
    assert message in str(error.value) and len(str(error.value)) < 250


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: not JSON"),
        (b"{", "body: not JSON"),
        (b"\xff\xfe\xfa", "body: not JSON"),
        (b"[]", "body: must be an object"),
        (b'{"histories": [["a"]], "cold_share": NaN}', "body: not JSON (NaN is not JSON)"),
        (b'{"top": 1, "top": 2}', "body: not JSON (a field occurs twice)"),
        (b'{"top": ' + b"9" * 10_000 + b"}", "body: not JSON"),
        (b"[" * 100_000, "body: its brackets are nested too deeply"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_json_object(body: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(body, LIMITS)
    assert str(error.value).startswith(message)
