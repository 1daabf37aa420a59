"""Parses the body of a request: JSON, checked field by field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from recbole_mscgrec.serving.batching import Options, Query, Tokens
from recbole_mscgrec.storage.errors import UserError, one_line

FIELDS = ("histories top exclude allowed exclude_seen beam_size fallback cold_share").split()


@dataclass(frozen=True)
class Limits:
    """The largest request that is accepted."""

    max_body: int = 1 << 20  # bytes
    max_histories: int = 64  # per request
    max_length: int = 1000  # items per history, and excluded items per history
    max_top: int = 100  # also the limit of beam_size, because the time of a search grows with it


def parse(body: bytes, limits: Limits) -> Query:
    """The query in a request's body.

    Raises:
        UserError: the body is not JSON, or a field is invalid; the text begins with its name.
    """
    fields = _read(body)
    for name in fields:
        if name not in FIELDS:
            raise UserError(f"{name[:60]!r}: no such field; the fields are {', '.join(FIELDS)}.")
    histories = _histories(fields.get("histories"), limits)
    n_rows, defaults = len(histories), Options()
    options = Options(
        top=_whole_number(fields, "top", limits.max_top) or defaults.top,
        exclude_seen=_yes_or_no(fields, "exclude_seen"),
        beam_size=_whole_number(fields, "beam_size", limits.max_top),
        fallback=_fallback(fields.get("fallback")),
        cold_share=_share(fields.get("cold_share")),
    )
    exclude = _exclude(fields.get("exclude"), n_rows, limits)
    # An empty `exclude` excludes nothing. An empty `allowed` allows nothing: the list is empty.
    allowed, allowed_each = _filter(fields.get("allowed"), "allowed", n_rows)
    return Query(histories, options, exclude, allowed, allowed_each)


def _read(body: bytes) -> dict[str, Any]:
    """The JSON object of a body."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a field occurs twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        fields = json.loads(body, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise UserError("body: its brackets are nested too deeply.") from None
    except ValueError as error:  # includes a wrong encoding, and numbers with 10,000 digits
        raise UserError(f"body: not JSON ({one_line(error)}).") from None
    if not isinstance(fields, dict):
        raise UserError('body: must be an object such as {"histories": [["item", ...]]}.')
    return fields


def _histories(value: Any, limits: Limits) -> tuple[Tokens, ...]:
    if not isinstance(value, list) or not value:
        raise UserError("histories: must be a list of one or more lists of items.")
    if len(value) > limits.max_histories:
        raise UserError(
            f"histories: {len(value):,} are too many for one request; at most "
            f"{limits.max_histories:,} are accepted."
        )
    histories = tuple(_tokens(row, f"histories[{n}]") for n, row in enumerate(value))
    for n, history in enumerate(histories):
        if len(history) > limits.max_length:
            raise UserError(
                f"histories[{n}]: {len(history):,} items are too many; at most "
                f"{limits.max_length:,} are accepted. Send the latest ones."
            )
    return histories


def _tokens(value: Any, place: str) -> Tokens:
    if not isinstance(value, list):
        raise UserError(f"{place}: must be a list of items, not {_shown(value)}.")
    for n, token in enumerate(value):
        if not isinstance(token, str):
            raise UserError(f'{place}[{n}]: an item is a string such as "50", not {_shown(token)}.')
    return tuple(value)


def _exclude(value: Any, n_rows: int, limits: Limits) -> tuple[Tokens, ...] | None:
    """One list of distinct items for each history; None if nothing is excluded."""
    for_all, for_each = _filter(value, "exclude", n_rows)
    rows = (for_all,) if for_each is None else for_each
    distinct = tuple(tuple(dict.fromkeys(row or ())) for row in rows)
    # Beam search needs memory for the longest list of a batch, in each row and beam.
    longest = max(map(len, distinct))
    if longest > limits.max_length:
        raise UserError(
            f"exclude: {longest:,} items for one history are too many; at most "
            f"{limits.max_length:,} are accepted. `allowed` has no such limit."
        )
    return (distinct * n_rows if for_each is None else distinct) if longest else None


def _filter(
    value: Any, name: str, n_rows: int
) -> tuple[Tokens, None] | tuple[None, tuple[Tokens, ...] | None]:
    """The value of `exclude` or `allowed`: one list of items for all histories, or one for each."""
    if value is None:
        return None, None
    if not isinstance(value, list) or not any(isinstance(row, list) for row in value):
        return _tokens(value, name), None
    if len(value) != n_rows:
        raise UserError(
            f"{name}: {len(value):,} lists for {n_rows:,} histories; give one list of items, or "
            "one list for each history."
        )
    return None, tuple(_tokens(row, f"{name}[{n}]") for n, row in enumerate(value))


def _whole_number(fields: dict[str, Any], name: str, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise UserError(f"{name}: must be a whole number from 1 to {most}, not {_shown(value)}.")
    return value


def _yes_or_no(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{name}: must be true or false, not {_shown(value)}.")
    return bool(value)


def _fallback(value: Any) -> str | None:
    if value is not None and value != "popular":
        raise UserError(f'fallback: must be "popular" or absent, not {_shown(value)}.')
    return value


def _share(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise UserError(f"cold_share: must be a number from 0 to 1, not {_shown(value)}.")
    return float(value)


def _shown(value: Any) -> str:
    """A value of a request as text, shortened because it may be as long as the whole body."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value)[:60]
