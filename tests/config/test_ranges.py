"""Every setting is checked by the rule beside it in the YAML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import recbole
import yaml
from tiny import settings

from recbole_mscgrec.config import ranges
from recbole_mscgrec.config.config import Config, properties_folder
from recbole_mscgrec.config.parsing import read_settings
from recbole_mscgrec.storage.errors import UserError

TILED = ("model/TiledSASRec", "model/TiledGRU4Rec", "model/TiledBSARec")
FILES = ("overall", "model/MSCGRec", "model/SequentialRules", *TILED)
# RecBole's settings without a number that could be wrong, and those that others check.
ELSEWHERE = {"loss_type", "eval_args", "topk", "metrics", "valid_metric"}


def lines_of(name: str) -> dict[str, str]:
    """Key -> line of a YAML file."""
    text = (properties_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    return {m[1]: m[0] for m in re.finditer(r"^(\w+):.*$", text, re.MULTILINE)}


@pytest.mark.parametrize("name", FILES)
def test_every_number_and_every_choice_has_a_rule_beside_its_meaning(name: str) -> None:
    file = properties_folder() / f"{name}.yaml"
    rules, lines = ranges.rules_of([file]), lines_of(name)
    for key, default in yaml.safe_load(file.read_text(encoding="utf-8")).items():
        if key in ELSEWHERE or isinstance(default, dict):
            continue
        rule = rules[key]
        assert f"({'int' if rule.types[0] == 'int' else rule.types[0]}" in lines[key], key
        numeric = {"int", "float"} & set(rule.types)
        assert not numeric or rule.least > float("-inf"), f"{key} has no range"
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            assert numeric, key


@pytest.mark.parametrize("name", FILES)
def test_our_own_defaults_follow_the_rules(name: str) -> None:
    file = properties_folder() / f"{name}.yaml"
    ranges.check(read_settings(file), ranges.rules_of([file]))


def test_the_defaults_of_recbole_and_of_all_its_models_follow_the_rules() -> None:
    folder, rules = Path(recbole.__file__).parent / "properties", ranges.rules_of([])
    files = [folder / "overall.yaml", *sorted(folder.glob("model/*.yaml"))]
    assert len(files) > 80
    for file in files:
        ranges.check(read_settings(file) or {}, rules)


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("int, at least 1", [1, 7], [0, -1, 1.5, True, "3", None, [1]]),
        ("int or list, at least 2", [2, [2, 3], (4,)], [1, [2, 1], ["a"], True]),
        ("float, above 0", [1e-9, 3], [0, -1, float("nan"), float("inf"), "x"]),
        ("float, at least 0 and below 1", [0, 0.999], [1, 1.0, -0.1]),
        ("float, from 0 to 1", [0, 1, 0.5], [1.01, -0.01]),
        ("str, one of adam, sgd", ["adam", "sgd"], ["Adam", "foo", 5, None, ["adam"]]),
        ("str, one of adam, sgd in any case", ["ADAM", "sgd"], ["foo", 5]),
        ("dict, such as {'max_norm': 5}", [{}, {"max_norm": 5}], [5, "x", None]),
        ("str", ["a", Path("a")], [5, ["a"], True]),
        ("bool", [True, False], [1, "yes", None]),
    ],
)
def test_what_a_rule_allows(text: str, good: list[Any], bad: list[Any]) -> None:
    rule = ranges.parse(text)
    assert [value for value in good if not rule.allows(value)] == []
    assert [value for value in bad if rule.allows(value)] == []
    assert ranges.parse(text, may_be_unset=True).allows(None)


@pytest.mark.parametrize("text", ["number", "int, at most 5", "int, from 3", "float, above"])
def test_a_comment_that_is_no_rule_is_an_error_and_not_passed_over(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        ranges.parse(text)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, r"epochs \(0\) must be a whole number, at least 1\."),
        ("epochs", -1, r"epochs \(-1\) must be a whole number, at least 1\."),
        ("epochs", "abc", r"epochs \('abc'\) must be a whole number, at least 1\."),
        ("train_batch_size", 0, r"train_batch_size \(0\) must be .* at least 1"),
        ("collaborative_epochs", 0, r"collaborative_epochs \(0\) must be .* at least 1"),
        ("collaborative_size", 0, r"collaborative_size \(0\) must be .* at least 1"),
        ("text_tfidf_size", 0, r"text_tfidf_size \(0\) must be .* at least 1"),
        ("quantizer_iterations", 0, r"quantizer_iterations \(0\) must be .* at least 1"),
        ("n_levels", 0, r"n_levels \(0\) must be .* at least 1"),
        ("hidden_size", 0, r"hidden_size \(0\) must be .* at least 1"),
        ("n_heads", 0, r"n_heads \(0\) must be .* at least 1"),
        ("max_distance", 0, r"max_distance \(0\) must be .* at least 1"),
        ("learner", "foo", r"learner \('foo'\) must be one of adam, adamw, .* in any case"),
        ("learner", "sparse_adam", r"learner \('sparse_adam'\) must be one of adam, adamw, .*"),
        ("clip_grad_norm", 5, r"clip_grad_norm \(5\) must be a mapping, such as {'max_norm': 5}"),
        ("clip_grad_norm", {"norm": 5}, r"clip_grad_norm \({'norm': 5}\) must have max_norm"),
        ("encoding", "foo", r"encoding \('foo'\) must be one that Python knows"),
        ("item_inter_num_interval", "foo", r"item_inter_num_interval \('foo'\) must be an interv"),
        ("user_inter_num_interval", "[9,3]", r"user_inter_num_interval .* must be an interval"),
        ("result_file", 5, r"result_file \(5\) must be a string"),
    ],
)
def test_values_that_nobody_can_mean_are_refused(
    rule_folder: Path, key: str, value: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Config("MSCGRec", "rule", config_dict=settings(rule_folder, **{key: value}))


def test_recboles_own_models_have_the_rules_of_recboles_settings(rule_folder: Path) -> None:
    with pytest.raises(UserError, match=r"epochs \(0\) must be"):
        Config("BPR", "rule", config_dict={"epochs": 0})


@pytest.mark.parametrize("value", ["[5,inf)", "(0, 10]", "[1,2);(3,4]", "[-1.5,1e3]"])
def test_intervals_that_recbole_can_read_are_accepted(value: str) -> None:
    ranges.check({"item_inter_num_interval": value}, {})


def test_a_file_of_a_modality_is_the_name_of_a_file(rule_folder: Path) -> None:
    from tiny import build

    with pytest.raises(UserError, match=r"codes_file .*must name a file for text"):
        build("MSCGRec", "rule", settings(rule_folder, codes_file={"text": 5}))
