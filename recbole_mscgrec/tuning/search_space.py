"""The search space: reads the file that `--tune` names.

Either YAML, one setting a line:

    learning_rate: {loguniform: [1e-4, 1e-2]}      # the bounds themselves
    dropout_prob: {uniform: [0.0, 0.5]}
    ema_decay: {quniform: [0.9, 0.99, 0.01]}       # low, high, step
    n_encoder_layers: {int: [1, 4]}                # both ends are included
    hidden_size: {choice: [64, 128]}

or a hyper-parameter file of RecBole, with RecBole's meaning: `learning_rate loguniform -8,0` is
exp(x) for x from -8 to 0, and `quniform` gives multiples of its step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_mscgrec.config.parsing import parse_value, read_settings
from recbole_mscgrec.storage.errors import UserError, one_line

_RECBOLE_LINE = re.compile(r"(?P<name>\w+)[ \t]+(?P<kind>\w+)[ \t]+(?P<values>\S.*)")
_RECBOLE_KINDS = ("choice", "uniform", "quniform", "loguniform")
_FORMS = {
    "choice": "{choice: [a, b, ...]}",
    "uniform": "{uniform: [low, high]}",
    "loguniform": "{loguniform: [low, high]}",
    "quniform": "{quniform: [low, high, step]}",
    "int": "{int: [low, high]}",
}


@dataclass(frozen=True)
class Choice:
    """One of several values. The study stores and shows a value's label."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[Any, ...]:
        """The values that a study can store; lists and mappings as text."""
        plain = (bool, int, float, str, type(None))
        return tuple(v if isinstance(v, plain) else repr(v) for v in self.values)

    def value(self, drawn: Any) -> Any:
        """The setting's value for what the study has drawn."""
        return self.values[self.labels.index(drawn)]

    def ends(self) -> tuple[Any, ...]:
        """Values that are allowed only if all are."""
        return self.values

    def size(self) -> float:
        """The number of values."""
        return len(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if `whole`."""

    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def value(self, drawn: Any) -> Any:
        """The setting's value for what the study has drawn."""
        return drawn

    def ends(self) -> tuple[Any, ...]:
        """Values that are allowed only if all are."""
        return (self.low, self.high)

    def size(self) -> float:
        """The number of values."""
        return math.inf if self.step is None else round((self.high - self.low) / self.step) + 1


Parameter = Choice | Range


def read(file: str | Path) -> list[Parameter]:
    """The search space in a YAML file or in a hyper-parameter file of RecBole. The first line that
    is not a comment decides which of the two it is.

    Raises:
        UserError: the file cannot be read, is empty, names a setting twice, or has a line in
            neither of the forms above; the message names the line or setting.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tune: {file} cannot be read ({one_line(error)}).") from error
    numbered = [(n, line.strip()) for n, line in enumerate(lines, 1)]
    told = [(n, line) for n, line in numbered if line and not line.startswith("#")]
    if told and _RECBOLE_LINE.fullmatch(told[0][1]):
        space = [_recbole_parameter(line, f"tune: {file}, line {n}") for n, line in told]
    else:
        space = _yaml_space(file)
    names = [parameter.name for parameter in space]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"tune: {file} names {', '.join(twice)} twice: keep one line of each.")
    if not space:
        raise UserError(f"tune: {file} names no setting to search: add a line such as {_example()}")
    return space


def _example() -> str:
    return "`learning_rate: {loguniform: [1e-4, 1e-2]}`."


def _yaml_space(file: str | Path) -> list[Parameter]:
    content = read_settings(file)
    if content is None:
        return []
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"tune: {file} must hold one setting a line, such as {_example()}")
    return [_yaml_parameter(name, given, f"tune: {file}: ") for name, given in content.items()]


def _yaml_parameter(name: str, given: Any, place: str) -> Parameter:
    if not isinstance(given, dict) or len(given) != 1 or not set(given) <= set(_FORMS):
        raise UserError(f"{place}{name} ({given!r}) must be one of {', '.join(_FORMS.values())}.")
    ((kind, values),) = given.items()
    if not isinstance(values, list):
        raise UserError(f"{place}{name} must be {_FORMS[kind]}, not {values!r}.")
    return _parameter(name, kind, values, place, f"must be {_FORMS[kind]}")


def _recbole_parameter(line: str, place: str) -> Parameter:
    """A line of RecBole's format, with the meaning that hyperopt gives it."""
    found = _RECBOLE_LINE.fullmatch(line)
    if found is None or found["kind"] not in _RECBOLE_KINDS:
        raise UserError(
            f"{place} ({line:.60}) must be `NAME KIND VALUES` with KIND one of "
            f"{', '.join(_RECBOLE_KINDS)}, as in RecBole's hyper-parameter files."
        )
    name, kind, text = found["name"], found["kind"], found["values"]
    rule = "must be a list, such as [0.01,0.001]" if kind == "choice" else "must be numbers"
    values = parse_value("", text if kind == "choice" else f"[{text}]")
    if not isinstance(values, list):
        raise UserError(f"{place}: {name} ({text:.60}) {rule}.")
    if kind == "choice":  # RecBole's files hold lists as text: ['[64,64]','[128]']
        return _parameter(name, kind, [parse_value(name, v) for v in values], f"{place}: ", rule)
    n = 3 if kind == "quniform" else 2
    numbers = _numbers(values, n, f"{place}: {name} ({text:.60}) must be {n} numbers")
    if kind == "loguniform":
        numbers = [_exp(x, f"{place}: {name}") for x in numbers]
    return _parameter(name, kind, numbers, f"{place}: ", rule)


def _exp(exponent: float, place: str) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        raise UserError(
            f"{place}: the bounds of loguniform are exponents in RecBole's files: exp({exponent}) "
            "is too large."
        ) from None


def _parameter(name: str, kind: str, values: list[Any], place: str, rule: str) -> Parameter:
    """The parameter of one line; checks its values."""
    if kind == "choice":
        return _choice(name, values, f"{place}{name} ({values!r})")
    shown = f"{place}{name} ({kind} {values})"
    numbers = _numbers(values, 3 if kind == "quniform" else 2, f"{shown} {rule}")
    low, high = numbers[:2]
    if not low < high:
        raise UserError(f"{shown}: the first bound must be below the second.")
    return _RANGES[kind](name, numbers, shown)


def _choice(name: str, values: list[Any], shown: str) -> Choice:
    if not values:
        raise UserError(f"{shown} must name at least one value.")
    choice = Choice(name, tuple(values))
    for each in (choice.values, choice.labels):
        if any(value in each[:n] for n, value in enumerate(each)):
            raise UserError(f"{shown} must not name a value twice.")
    return choice


def _uniform(name: str, bounds: list[float], shown: str) -> Range:
    return Range(name, float(bounds[0]), float(bounds[1]))


def _loguniform(name: str, bounds: list[float], shown: str) -> Range:
    if bounds[0] <= 0:
        raise UserError(
            f"{shown}: the bounds must be above 0. They are the numbers themselves, such as "
            "[1e-4, 1e-2]; only RecBole's own files hold exponents."
        )
    return Range(name, float(bounds[0]), float(bounds[1]), log=True)


def _int(name: str, bounds: list[float], shown: str) -> Range:
    if not all(isinstance(bound, int) for bound in bounds):
        raise UserError(f"{shown}: the bounds of int must be whole numbers.")
    return Range(name, bounds[0], bounds[1], step=1, whole=True)


def _quniform(name: str, numbers: list[float], shown: str) -> Range:
    """Multiples of the step, as in hyperopt, but only within the bounds; hyperopt can exceed them
    by rounding."""
    low, high, step = numbers
    if step <= 0:
        raise UserError(f"{shown}: the step must be above 0.")
    tiny = 1e-9  # 0.3 / 0.1 is 2.9999999999999996
    first, last = math.ceil(low / step - tiny), math.floor(high / step + tiny)
    if first >= last:
        raise UserError(f"{shown}: fewer than two multiples of {step} lie in these bounds.")
    if float(step).is_integer():
        whole = int(step)
        return Range(name, first * whole, last * whole, step=whole, whole=True)
    digits = 12  # 3 * 0.1 is 0.30000000000000004
    return Range(name, round(first * step, digits), round(last * step, digits), step=float(step))


_RANGES: dict[str, Callable[[str, list[float], str], Range]] = {
    "uniform": _uniform,
    "loguniform": _loguniform,
    "int": _int,
    "quniform": _quniform,
}


def _numbers(values: list[Any], n: int, problem: str) -> list[float]:
    """The values, if they are `n` finite numbers."""
    fit = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in values]
    if len(values) != n or not all(fit) or not all(math.isfinite(v) for v in values):
        raise UserError(f"{problem}.")
    return values
