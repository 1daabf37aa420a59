"""The values that each setting may have.

A comment `# (int, at least 1) meaning` in a YAML file of properties/ is the rule of its key.
RECBOLE holds the rules of RecBole's own settings in the same form:

    TYPE                        int, float, str, list, dict, bool, or several: int or list
    TYPE, at least 1            also: above 0; at least 0 and below 1; from 0 to 1
    TYPE, one of a, b           with `in any case` at the end: a, A, b or B
    TYPE, such as x             an example, not a rule

A rule for numbers also holds for each number of a list.
"""

from __future__ import annotations

import codecs
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from recbole_mscgrec.storage.errors import UserError

RECBOLE = {
    "seed": "int, from 0 to 4294967295",
    "worker": "int, at least 0",
    "state": "str, one of critical, error, warning, info, debug in any case",
    "epochs": "int, at least 1",
    "train_batch_size": "int, at least 1",
    "eval_batch_size": "int, at least 1",
    # Without sparse_adam: it takes sparse gradients only, which no model of RecBole or ours has.
    "learner": "str, one of adam, adamw, sgd, adagrad, rmsprop in any case",
    "learning_rate": "float, above 0",
    "weight_decay": "float, at least 0",
    "eval_step": "int, at least 0",
    "stopping_step": "int, at least 0",
    "loss_decimal_place": "int, at least 0",
    "metric_decimal_place": "int, at least 0",
    "MAX_ITEM_LIST_LENGTH": "int, at least 1",
    "clip_grad_norm": "dict, such as {'max_norm': 5}",
    "use_gpu": "bool",
    "reproducibility": "bool",
    "show_progress": "bool",
    "shuffle": "bool",
    "repeatable": "bool",
    "enable_amp": "bool",
    "enable_scaler": "bool",
    "checkpoint_dir": "str",
    "data_path": "str",
}
# Keys for which None means "off".
_MAY_BE_UNSET = frozenset({"clip_grad_norm", "exclude_seen"})
_CLIP = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
_INTERVAL_KEYS = (
    "user_inter_num_interval item_inter_num_interval entity_kg_num_interval"
    " relation_kg_num_interval"
).split()

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?inf"
_INTERVAL = re.compile(rf"\s*[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]\s*")
_COMMENT = re.compile(r"(?P<key>\w+):\s*(?P<default>.*?)\s*#\s*\((?P<rule>[^)]*)\)")
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((numbers.Integral,), "a whole number"),
    "float": ((numbers.Real,), "a number"),
    "str": ((str, PurePath), "a string"),
    "list": ((list, tuple), "a list"),
    "dict": ((dict,), "a mapping"),
    "bool": ((bool,), "True or False"),
}


class Rule(NamedTuple):
    """The values that a setting may have."""

    types: tuple[str, ...]
    text: str = ""  # the rule in words, without the type
    least: float = -math.inf
    most: float = math.inf
    least_allowed: bool = True  # whether `least` itself is allowed
    most_allowed: bool = True
    choices: tuple[str, ...] = ()
    any_case: bool = False
    may_be_unset: bool = False

    def allows(self, value: Any) -> bool:
        """Whether the setting may have this value."""
        if value is None:
            return self.may_be_unset
        if isinstance(value, (list, tuple)) and "list" in self.types:
            return all(self._allows_one(part) for part in value)
        return self._allows_one(value)

    def decides(self) -> bool:
        """Whether the rule can refuse a value. A bare `list` cannot: for some keys RecBole also
        accepts a single value (`topk: 10`, `metrics: NDCG`)."""
        return bool(self.text) or "list" not in self.types

    def _allows_one(self, value: Any) -> bool:
        types: Any = tuple(kind for name in self.types for kind in _TYPES[name][0])
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            return False
        if self.choices:
            return (str(value).lower() if self.any_case else value) in self.choices
        if not {"int", "float"}.isdisjoint(self.types):
            low = value >= self.least if self.least_allowed else value > self.least
            high = value <= self.most if self.most_allowed else value < self.most
            return bool(low and high and abs(value) < math.inf)
        return True

    def __str__(self) -> str:
        kinds = " or ".join(_TYPES[name][1] for name in self.types)
        if self.choices:
            return self.text
        return f"{kinds}, {self.text}" if self.text else kinds


def parse(text: str, may_be_unset: bool = False) -> Rule:
    """The rule written in a comment or in RECBOLE. Raises ValueError if it is not a rule."""
    kinds, _, words = text.partition(", ")
    rule = Rule(tuple(kinds.split(" or ")), words, may_be_unset=may_be_unset)
    unknown = [name for name in rule.types if name not in _TYPES]
    if unknown:
        raise ValueError(f"({text}): {unknown} is not a type")
    if not words or words.startswith("such as "):
        return rule
    if words.startswith("one of "):
        names = words.removeprefix("one of ").removesuffix(" in any case")
        any_case = words.endswith(" in any case")
        return rule._replace(choices=tuple(names.split(", ")), any_case=any_case)
    found = re.fullmatch(r"from (\S+) to (\S+)", words)
    if found:
        return rule._replace(least=float(found[1]), most=float(found[2]))
    found = re.fullmatch(r"(at least|above) (\S+)(?: and below (\S+))?", words)
    if not found:
        raise ValueError(f"({text}): {words!r} is not a rule, see the top of config/ranges.py")
    rule = rule._replace(least=float(found[2]), least_allowed=found[1] == "at least")
    return rule._replace(most=float(found[3]), most_allowed=False) if found[3] else rule


def rules_of(files: Iterable[Path]) -> dict[str, Rule]:
    """Key -> rule of RecBole's settings and of all keys in these YAML files, later ones win."""
    rules = {key: parse(text, key in _MAY_BE_UNSET) for key, text in RECBOLE.items()}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            found = _COMMENT.match(line)
            if found:
                rules[found["key"]] = parse(
                    found["rule"], found["default"] == "~" or found["key"] in _MAY_BE_UNSET
                )
    return rules


def check(settings: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Check that each setting has a value that its rule allows.

    Raises:
        UserError: a value breaks its rule, or an interval or the encoding is invalid.
    """
    for key, rule in rules.items():
        if rule.decides() and key in settings and not rule.allows(settings[key]):
            raise UserError(f"{key} ({settings[key]!r}) must be {rule}.")
    for key in _INTERVAL_KEYS:
        check_interval(key, settings.get(key))
    clip = settings.get("clip_grad_norm") or {}
    if clip and (set(clip) - _CLIP or not isinstance(clip.get("max_norm"), numbers.Real)):
        raise UserError(
            f"clip_grad_norm ({clip}) must have max_norm, a number, and may have "
            f"{', '.join(sorted(_CLIP - {'max_norm'}))} of torch's clip_grad_norm_."
        )
    encoding = settings.get("encoding")
    try:
        codecs.lookup(encoding or "utf-8")
    except (LookupError, TypeError):
        raise UserError(
            f"encoding ({encoding!r}) must be one that Python knows, such as utf-8 or latin-1."
        ) from None


def check_interval(key: str, value: Any) -> None:
    """Raise UserError for an invalid interval. RecBole ignores an interval that it cannot parse,
    and then filters nothing."""
    if value is None:
        return
    for part in str(value).split(";"):
        found = _INTERVAL.fullmatch(part)
        if not found or float(found[1]) > float(found[2]):
            raise UserError(
                f"{key} ({value!r}) must be an interval such as [5,inf) or (0,10], or several "
                "with ; between them."
            )
