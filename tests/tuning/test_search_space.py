"""Search spaces: YAML, RecBole's hyper-parameter files, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tuning.search_space import Choice, Range, read


def of(text: str, name: str = "space.yaml") -> list[Any]:
    Path(name).write_text(text, encoding="utf-8")
    return read(name)


def test_every_form_of_yaml() -> None:
    text = """
        # a comment
        learning_rate: {loguniform: [1e-4, 1e-2]}
        dropout_prob: {uniform: [0, 0.5]}
        ema_decay: {quniform: [0.9, 0.99, 0.03]}
        train_batch_size: {quniform: [100, 300, 100]}
        n_layers: {int: [1, 4]}
        hidden_size: {choice: [64, 128]}
        sizes: {choice: [[64, 64], [128]]}
    """
    rate, dropout, decay, batch, layers, hidden, sizes = of(text)
    assert rate == Range("learning_rate", 1e-4, 1e-2, log=True)
    assert dropout == Range("dropout_prob", 0.0, 0.5) and isinstance(dropout.low, float)
    assert decay == Range("ema_decay", 0.9, 0.99, step=0.03) and decay.size() == 4
    assert batch == Range("train_batch_size", 100, 300, step=100, whole=True)
    assert layers == Range("n_layers", 1, 4, step=1, whole=True) and layers.size() == 4
    assert hidden == Choice("hidden_size", (64, 128)) and hidden.labels == (64, 128)
    assert sizes.labels == ("[64, 64]", "[128]") and sizes.value("[64, 64]") == [64, 64]
    assert rate.ends() == (1e-4, 1e-2) and rate.size() == math.inf


def test_a_file_of_recbole_has_recboles_meaning() -> None:
    text = (
        "learning_rate loguniform -8,0\n"
        "dropout_prob uniform 0.0, 0.5\n"
        "train_batch_size quniform 100,200,50\n"
        "reg quniform 0.1,0.35,0.1\n"
        "# a comment\n"
        "\n"
        "embedding_size choice [64, 96]\n"
        "mlp_hidden_size choice ['[64,64]','[128]']\n"
        "loss_type choice ['CE','BPR']\n"
    )
    rate, dropout, batch, reg, size, mlp, loss = of(text, "hyper.test")
    assert (rate.low, rate.high, rate.log) == (math.exp(-8), 1.0, True)
    assert dropout == Range("dropout_prob", 0.0, 0.5)
    assert batch == Range("train_batch_size", 100, 200, step=50, whole=True)
    assert reg == Range("reg", 0.1, 0.3, step=0.1)  # hyperopt gives multiples of the step
    assert size.values == (64, 96)
    assert mlp.values == ([64, 64], [128])
    assert loss.values == ("CE", "BPR")


@pytest.mark.parametrize("line", ["dropout_prob choice [0.1]", "dropout_prob: {choice: [0.1]}"])
def test_a_mark_of_utf_8_is_no_part_of_the_first_name(line: str) -> None:
    (space,) = of(f"\ufeff{line}\n", "hyper.test")
    assert space == Choice("dropout_prob", (0.1,))


def test_quniform_keeps_multiples_of_its_step_inside_the_bounds() -> None:
    (parameter,) = of("n quniform 1,10,4", "hyper.test")
    assert (parameter.low, parameter.high, parameter.size()) == (4, 8, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no setting to search"),
        ("- a\n", "must hold one setting a line"),
        ("a: [1, 2]", r"a \(\[1, 2\]\) must be one of {choice"),
        ("a: {normal: [1, 2]}", "must be one of {choice"),
        ("a: {choice: []}", "at least one value"),
        ("a: {choice: [1, 2, 1]}", "must not name a value twice"),
        ("a: {choice: [1, True]}", "must not name a value twice"),
        ("a: {choice: 3}", "must be {choice: "),
        ("a: {uniform: [1]}", r"must be {uniform: \[low, high\]}"),
        ("a: {uniform: [x, y]}", r"must be {uniform: \[low, high\]}"),
        ("a: {uniform: [0, .inf]}", r"must be {uniform: \[low, high\]}"),
        ("a: {uniform: [2, 1]}", "first bound must be below the second"),
        ("a: {int: [1.5, 3]}", "must be whole numbers"),
        ("a: {loguniform: [-8, 0]}", "must be above 0.*only RecBole's own files hold exponents"),
        ("a: {quniform: [0, 1, 0]}", "step must be above 0"),
        ("a: {quniform: [0, 1, 2]}", "fewer than two multiples"),
        ("a choice [1,2]\nb normal 1,2", r"line 2 \(b normal 1,2\) must be `NAME KIND VALUES`"),
        ("a choice [1,2]\nb: {int: [1, 2]}", "line 2"),
        ("a choice 3", "must be a list"),
        ("a uniform 1", "must be 2 numbers"),
        ("a quniform 1,2", "must be 3 numbers"),
        ("a loguniform 1,1000", r"exp\(1000\) is too large"),
        ("a choice [1,2]\na choice [3]", "names a twice"),
        ("a choice __import__('os').getcwd()", "must be a list"),
    ],
)
def test_what_is_no_search_space_is_refused(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        of(text)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match="nowhere.yaml cannot be read"):
        read("nowhere.yaml")
