"""What each kind of file that we read must hold, in one place.

A rule is one of

| rule | what fits |
|---|---|
| a type, or a tuple of types | an instance; a bool does not count as a number |
| a dict | a dict with these keys; further keys are allowed |
| Maybe(rule) | what fits the rule, or None; in a dict, the key may be absent |
| Each(rule) | a dict whose keys are strings and whose values fit the rule |
| Both(rule, rule) | what fits both rules |
| List(rule) | a list whose values fit the rule |
| Row(rule, ...) | a list with one value for each rule, in order |
| Either(rule, ...) | what fits at least one of the rules |
| Plain | text, numbers, None, and lists and dicts of these |
| Numbers(...) | a tensor |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from recbole_mscgrec.storage.errors import UserError

Rule = Any
_KINDS = {"f": "floating-point numbers", "i": "integers", "b": "booleans", "?": "any numbers"}


class Maybe(NamedTuple):
    """A value that may be absent or None."""

    rule: Rule


class Each(NamedTuple):
    """A dict from names to values that all fit the rule."""

    rule: Rule


class Both(NamedTuple):
    """A value that fits two rules."""

    one: Rule
    other: Rule


class List(NamedTuple):
    """A list of values that all fit the rule."""

    rule: Rule


class Row:
    """A list with one value for each rule, in order."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules


class Either:
    """A value that fits one of several rules; if none fits, the fault is that of the last rule."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules


class Plain:
    """Text, numbers, booleans, None, and lists and dicts of these, as in settings."""


class Numbers(NamedTuple):
    """A tensor without NaN and infinity, of a kind of number: f, i, b, or ? for any. In `shape`,
    None stands for any size; `shape=None` allows any shape."""

    kind: str = "?"
    shape: tuple[int | None, ...] | None = None


# --- the files ------------------------------------------------------------------------------------

_NUMBER = (float, int)
WEIGHTS = Each(Numbers())
_SAVED = {
    "config": Both({"model": str, "dataset": str, "eval_args": Maybe(dict)}, Each(Plain)),
    "settings": Maybe(Both({"eval_args": Maybe(dict)}, Each(Plain))),
    "chosen": Maybe(Each(Plain)),
    "made_by": Maybe(dict),
    "train_rows": Maybe({"rows": str, "form": str, "targets": Maybe(str)}),
    "state_dict": WEIGHTS,
    "other_parameter": Maybe(Each(object)),
}
SAVED_MODEL = {**_SAVED, "epoch": Maybe(int)}
_RANDOM = {
    "torch": Numbers("i", (None,)),
    "numpy": list,
    "python": list,
    # Older files hold the state of a single generator.
    "loader": Maybe(Either(Numbers("i", (None,)), List(Numbers("i", (None,))))),
    "cuda": Maybe(List(Numbers("i", (None,)))),
}
_OPTIMIZER = {"state": dict, "param_groups": List({"params": List(int)})}
INTERRUPTED_TRAINING = {
    **_SAVED,
    "epoch": int,
    "cur_step": int,
    "best_valid_score": _NUMBER,
    "best_valid_result": Maybe(Each(_NUMBER)),
    "optimizer": _OPTIMIZER,
    "random": _RANDOM,
    "random_of_others": Maybe(List(_RANDOM)),
    "seconds": Maybe(Each(_NUMBER)),
    "training": Maybe({"average": List(Numbers("f"))}),
    "codes": Maybe({"table": str, "inputs": Each(str), "learned": Maybe(str)}),  # fingerprints
}
INTERRUPTED_COLLABORATIVE = {
    "model": WEIGHTS,
    "best": WEIGHTS,
    "optimizer": _OPTIMIZER,
    "best_score": _NUMBER,
    "epoch": int,
    "waited": int,
    "random": _RANDOM,
}
INTERRUPTED_RQ_DINO = {
    "student": WEIGHTS,
    "teacher": WEIGHTS,
    "targets": WEIGHTS,
    "optimizer": _OPTIMIZER,
    "epoch": int,
    "history": {
        "log_out_dim": _NUMBER,
        "seconds": _NUMBER,
        "epochs": List({"dino_loss": _NUMBER, "perplexity": Maybe(List(_NUMBER))}),
    },
}
TRANSITIONS = {
    "start": Numbers("i", (None,)),
    "item": Numbers("i", (None,)),
    "weight": Numbers("f", (None,)),
    "popularity": Numbers("f", (None,)),
    "text": Numbers("f", (None, None)),
    "text_share": Numbers("f", (None,)),
}
CODES = {
    "table": {
        "codes": Each(Numbers("i", (None, None))),
        "sizes": Each(List(int)),
        "target": str,
    },
    "health": Each(
        {
            "levels": List({"codebook_size": int, "used": int, "perplexity": _NUMBER}),
            "n_content_levels": Maybe(int),
            "alone_share": _NUMBER,
        }
    ),
    "items": str,
    "vectors": Maybe(Each(Numbers("f", (None, None)))),
    "inputs": Maybe(Each(str)),
    "codebooks": Maybe(Each(Numbers("f", (None, None)))),
    "transitions": Maybe(TRANSITIONS),
    "learned": Maybe(Numbers("i", (None,))),
}
IMAGE_CHECK = {"files": Each(Row(List(int), str, str))}  # size and time, hash, defect
RESULT = {
    "model": str,
    "dataset": str,
    "seed": int,
    "test_result": Each(_NUMBER),
    **dict.fromkeys(("settings", "chosen", "preset", "code_health"), Maybe(Each(object))),
    "best_valid_result": Maybe(Each(_NUMBER)),
    "data": Maybe(str),
    "made_by": Maybe({"version": Maybe(str), "commit": Maybe(str)}),
    "seconds": Maybe(Each(_NUMBER)),
    "peak_memory_mb": Maybe(_NUMBER),
    "peak_memory_mb_after": Maybe(Each(_NUMBER)),
    "peak_gpu_memory_mb": Maybe(_NUMBER),
    "n_parameters": Maybe(int),
}


def features(n_items: int) -> Rule:
    """The cached features of N items in a modality."""
    return {
        "vectors": Numbers("f", (n_items, None)),
        "present": Numbers("b", (n_items,)),
        "codes": Maybe(Numbers("i", (n_items, None))),
        "sizes": Maybe(Numbers("i", (None,))),
        "quantized": Maybe(Numbers("f", (n_items, None))),
    }


def codes(modalities: list[str], n_items: int) -> Rule:
    """The cached codes of N items in these modalities."""
    rule: dict[str, Rule] = {"filled": Numbers("i", (2,))}
    for name in modalities:
        rule[f"codes.{name}"] = Numbers("i", (n_items, None))
        rule[f"sizes.{name}"] = Numbers("i", (None,))
        rule[f"codebooks.{name}"] = Maybe(Numbers("f", (None, None)))
    return rule


# --- checking -------------------------------------------------------------------------------------


def fault(value: Any, rule: Rule, place: str = "") -> str:
    """What is wrong with a value: '' if it fits, else one line that names its place in the file."""
    if isinstance(rule, Maybe):
        return "" if value is None else fault(value, rule.rule, place)
    if isinstance(rule, Either):
        faults = [fault(value, each, place) for each in rule.rules]
        return faults[-1] if all(faults) else ""
    if isinstance(rule, Both):
        return fault(value, rule.one, place) or fault(value, rule.other, place)
    if rule is Plain:
        return _fault_of_plain(value, place)
    if isinstance(rule, Numbers):
        return fault_of_numbers(value, rule, place)
    if isinstance(rule, List):
        if not isinstance(value, list):
            return _of_type(place, "a list", value)
        return _first(fault(v, rule.rule, f"{place}[{n}]") for n, v in enumerate(value))
    if isinstance(rule, Row):
        if not isinstance(value, list) or len(value) != len(rule.rules):
            return _of_type(place, f"a list of {len(rule.rules)} values", value)
        pairs = zip(value, rule.rules, strict=True)
        return _first(fault(v, r, f"{place}[{n}]") for n, (v, r) in enumerate(pairs))
    if isinstance(rule, (Each, dict)):
        if not isinstance(value, dict):
            return _of_type(place, "a mapping", value)
        return _fault_of_dict(value, rule, f"{place}." if place else "")
    types = rule if isinstance(rule, tuple) else (rule,)
    fits = isinstance(value, types) and (not isinstance(value, bool) or not _are_numbers(types))
    return "" if fits else _of_type(place, " or ".join(t.__name__ for t in types), value)


def _fault_of_plain(value: Any, place: str) -> str:
    if isinstance(value, dict):
        return _first(_fault_of_plain(part, f"{place}.{key!s:.40}") for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return _first(_fault_of_plain(part, f"{place}[{n}]") for n, part in enumerate(value))
    fits = value is None or isinstance(value, (str, int, float))
    return "" if fits else _of_type(place, "text or a number", value)


def _are_numbers(types: tuple[type, ...]) -> bool:
    return bool({int, float} & set(types)) and bool not in types


def _fault_of_dict(value: dict, rule: Rule, place: str) -> str:
    if isinstance(rule, Each):
        strange = [key for key in value if not isinstance(key, str)]
        if strange:
            keys = f"the keys of {place[:-1]}" if place else "its keys"
            return f"{keys} must be strings, not {strange[0]!r:.40}"
        return _first(fault(v, rule.rule, f"{place}{k:.40}") for k, v in value.items())
    lacking = [k for k, r in rule.items() if k not in value and not isinstance(r, Maybe)]
    if lacking:
        return f"it lacks {', '.join(place + key for key in sorted(lacking))}"
    return _first(fault(value[k], r, f"{place}{k}") for k, r in rule.items() if k in value)


def fault_of_numbers(value: Any, rule: Numbers, place: str) -> str:
    """As `fault`, for a tensor."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return _of_type(place, "a tensor", value)
    is_float = value.is_floating_point()
    kind = "f" if is_float else "b" if value.dtype == torch.bool else "i"
    if value.is_complex() or rule.kind not in ("?", kind):
        return f"{place} must be a tensor of {_KINDS[rule.kind]}, not {value.dtype}"
    if rule.shape is not None:
        same = len(rule.shape) == value.dim() and all(
            wanted in (None, size) for wanted, size in zip(rule.shape, value.shape, strict=True)
        )
        if not same:
            shape = ", ".join("any" if size is None else str(size) for size in rule.shape)
            return f"{place} has the shape {tuple(value.shape)}, not ({shape})"
    if is_float and not bool(torch.isfinite(value).all()):
        return f"{place} holds NaN or infinity"
    return ""


def _of_type(place: str, wanted: str, value: Any) -> str:
    return f"{place or 'its content'} must be {wanted}, not {type(value).__name__}"


def _first(faults: Any) -> str:
    return next((text for text in faults if text), "")


def check(value: Any, rule: Rule, file: Any, what: str, way_out: str = "") -> None:
    """Raise UserError if the content of a file does not fit the rule. The error names the file,
    `what` it should be, and the `way_out` for the user."""
    if text := fault(value, rule):
        raise UserError(f"{file} is not {what}: {text}.{way_out and f' {way_out}'}")
