"""Features to codes: completed, unique, cached, and honest about it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    coloured_shapes,
    dino_settings,
    in_processes,
    item_texts,
    rule_sequences,
    tokens_of,
    train_split,
    typed,
    write_dataset,
    write_encoder,
    write_item,
)

from recbole_mscgrec.config.validation import level_sizes
from recbole_mscgrec.features import text_encoder
from recbole_mscgrec.rq_dino import encoding, training
from recbole_mscgrec.rq_dino.settings import CONFIGURABLE
from recbole_mscgrec.semantic_ids import residual_kmeans
from recbole_mscgrec.semantic_ids.code_table import MISSING
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage import cache, processes
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer import item_codes, pipeline
from recbole_mscgrec.tokenizer import modalities as stages_module
from recbole_mscgrec.tokenizer.modalities import Features
from recbole_mscgrec.tokenizer.pipeline import from_checkpoint, tokenize, tokenize_once


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that were really computed, in order."""
    ran: list[str] = []
    for module, name in (
        (stages_module, "collaborative_vectors"),
        (stages_module, "text_vectors"),
        (pipeline, "quantize"),
    ):
        original = getattr(module, name)

        def record(*args: Any, _name: str = name, _original: Any = original) -> Any:
            ran.append(_name)
            return _original(*args)

        monkeypatch.setattr(module, name, record)
    return ran


ALL = ["text_vectors", "collaborative_vectors", "quantize"]


def test_target_codes_are_unique_and_complete(rule_folder: Path) -> None:
    table = tokens_of(rule_folder, codebook_size=3).table
    assert table.target == "collaborative" and table.n_items == 31
    assert table.sizes["text"] == [3, 3] and table.sizes["collaborative"][:2] == [3, 3]
    assert len(table.sizes["collaborative"]) == 3  # 30 items do not fit 9 codes
    assert len(torch.unique(table.target_codes, dim=0)) == 30
    assert (table.codes["text"][1:] >= 0).all()


def test_redistribution_makes_the_target_unique_without_another_level(rule_folder: Path) -> None:
    settings = {"codebook_size": 6, "n_levels": 2, "collision": "redistribute"}
    table = tokens_of(rule_folder, **settings).table
    assert table.sizes["collaborative"] == [6, 6]
    assert len(torch.unique(table.target_codes, dim=0)) == 30
    text = tokens_of(rule_folder, **settings, target_modality="text").table
    assert len(torch.unique(text.target_codes, dim=0)) == 30


@pytest.mark.parametrize("key", ["decoder", "collision"])
def test_an_unknown_choice_is_refused(rule_folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} .'best'. must be one of"):
        tokens_of(rule_folder, **{key: "best"})


def test_text_as_the_target(rule_folder: Path) -> None:
    table = tokens_of(rule_folder, target_modality="text", modalities=["text"]).table
    assert list(table.codes) == ["text"] and len(torch.unique(table.target_codes, dim=0)) == 30


def test_the_most_frequent_of_colliding_items_gets_collision_code_zero(rule_folder: Path) -> None:
    config, train = train_split(rule_folder, codebook_size=2)
    codes = tokenize(typed(config, train), train).table.target_codes
    counts = torch.tensor([train.item_counter[i] for i in range(1, 31)])
    for prefix in torch.unique(codes[:, :2], dim=0):
        group = (codes[:, :2] == prefix).all(1)
        by_number = counts[group][codes[group, 2].argsort()].tolist()
        assert by_number == sorted(by_number, reverse=True)


def test_second_run_reuses_every_stage_and_says_so(
    rule_folder: Path, stages: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = tokens_of(rule_folder).table
    assert stages == ALL
    with caplog.at_level("INFO"):
        second = tokens_of(rule_folder).table
    assert stages == ALL
    for name in ("collaborative", "text", "codes"):
        assert f"{name}: reused from" in caplog.text
    assert all(torch.equal(second.codes[name], codes) for name, codes in first.codes.items())


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"hidden_size": 32, "learning_rate": 0.01, "epochs": 9}, []),
        ({"codebook_size": 5}, ["quantize"]),
        ({"n_levels": 3}, ["quantize"]),
        ({"quantizer_iterations": 3}, ["quantize"]),
        ({"target_modality": "text"}, ["quantize"]),
        ({"text_tfidf_size": 5}, ["text_vectors", "quantize"]),
        ({"collaborative_epochs": 1}, ["collaborative_vectors", "quantize"]),
        ({"collaborative_size": 6}, ["collaborative_vectors", "quantize"]),
        ({"MAX_ITEM_LIST_LENGTH": 5}, ["collaborative_vectors", "quantize"]),
        ({"matmul_precision": "medium"}, ["collaborative_vectors", "quantize"]),
        ({"seed": 7}, ALL),
    ],
    ids=lambda value: "+".join(value) or "nothing",
)
def test_a_changed_setting_remakes_what_depends_on_it(
    rule_folder: Path, stages: list[str], changes: dict[str, Any], again: list[str]
) -> None:
    tokens_of(rule_folder)
    del stages[:]
    tokens_of(rule_folder, **changes)
    assert stages == again


def test_another_order_of_the_modalities_is_another_fused_code(rule_folder: Path) -> None:
    """The codebooks of the fused target have the columns of the modalities in their order."""
    chosen = {"target_modality": "fused", "codebook_size": 4}
    first = tokens_of(rule_folder, modalities=["collaborative", "text"], **chosen)
    other = tokens_of(rule_folder, modalities=["text", "collaborative"], **chosen)
    one, two = (each.codebooks["fused"] for each in (first, other))
    torch.testing.assert_close(two, torch.cat([one[:, 8:], one[:, :8]], dim=1))


def test_another_split_numbers_colliding_items_anew(rule_folder: Path) -> None:
    """Text codes do not depend on the split, but the most frequent item of a group gets 0."""
    chosen = {"modalities": ["text"], "target_modality": "text", "codebook_size": 2}
    random = {"split": {"RS": [0.3, 0.3, 0.4]}, "group_by": "user", "order": "TO", "mode": "full"}
    tokens_of(rule_folder, **chosen)
    reused = tokens_of(rule_folder, **chosen, eval_args=random)
    fresh = tokens_of(rule_folder, **chosen, eval_args=random, cache_dir=str(rule_folder / "new"))
    assert torch.equal(reused.table.target_codes, fresh.table.target_codes)


def test_changed_data_remake_what_depends_on_them(rule_folder: Path, stages: list[str]) -> None:
    tokens_of(rule_folder)
    del stages[:]
    write_item(rule_folder / "data", "rule", {**item_texts(), "i3": "another title"})
    tokens_of(rule_folder)
    assert stages == ["text_vectors", "quantize"]
    del stages[:]
    sequences = rule_sequences()
    sequences["u3"][0] = "i29"
    write_dataset(rule_folder / "data", "rule", sequences)
    tokens_of(rule_folder)
    assert "collaborative_vectors" in stages and "quantize" in stages


def test_changed_encoder_weights_are_noticed(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local encoder folder with other weights under the same name makes new vectors."""
    (rule_folder / "encoder").mkdir()
    (rule_folder / "encoder" / "weights").write_bytes(b"one")
    config, train = train_split(rule_folder, text_encoder=str(rule_folder / "encoder"))
    chosen = typed(config, train)
    first = stages_module._text_stage(chosen, train).key
    assert first == stages_module._text_stage(chosen, train).key
    (rule_folder / "encoder" / "weights").write_bytes(b"three")
    assert first != stages_module._text_stage(chosen, train).key


@pytest.mark.parametrize("damage", ["truncated", "foreign", "noise", "empty"])
def test_a_damaged_or_foreign_cache_file_is_named_and_made_again(
    rule_folder: Path, stages: list[str], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = tokens_of(rule_folder).table
    files = {p.name.split("-")[0]: p for p in (rule_folder / "cache").glob("*.safetensors")}
    assert set(files) == {"collaborative", "text", "codes"}
    original = {name: file.read_bytes() for name, file in files.items()}
    for name, file in files.items():
        other = original["text" if name != "text" else "codes"]
        content = {"truncated": original[name][:-30], "foreign": other, "noise": b"\xff" * 999}
        file.write_bytes(content.get(damage, b""))
    del stages[:]
    second = tokens_of(rule_folder).table
    assert stages == ALL
    for file in files.values():
        assert f"{file} is not used, because" in caplog.text
    assert all(torch.equal(second.codes[name], codes) for name, codes in first.codes.items())
    assert {name: file.read_bytes() for name, file in files.items()} == original


def unseen_item(folder: Path) -> None:
    """Item x stands only at the end of one sequence, so the train split never shows it."""
    sequences = rule_sequences()
    sequences["u0"][-1] = "x"
    write_dataset(folder / "data", "rule", sequences, {**item_texts(), "x": "name7 fives1 thirds1"})


def test_unseen_item_takes_a_code_from_its_neighbours_by_text(tmp_path: Path) -> None:
    unseen_item(tmp_path)
    config, train = train_split(tmp_path)
    tokens = tokenize(typed(config, train), train)
    report = tokens.health["collaborative"]
    assert (report["filled_from_neighbours"], report["filled_free_leaf"]) == (1, 0)
    assert (tokens.table.target_codes >= 0).all()


def test_unseen_item_without_other_modality_takes_a_free_leaf(tmp_path: Path) -> None:
    unseen_item(tmp_path)
    config, train = train_split(tmp_path, modalities=["collaborative"])
    tokens = tokenize(typed(config, train), train)
    report = tokens.health["collaborative"]
    assert (report["filled_from_neighbours"], report["filled_free_leaf"]) == (0, 1)
    codes, item = tokens.table.codes["collaborative"], train.token2id("item_id", "x")
    same = (codes[:, :2] == codes[item, :2]).all(1)
    assert same.nonzero().flatten().tolist() == [item]


def test_neighbours_give_the_code_of_their_mean_vector() -> None:
    """Two groups of six; item 13 lacks the target but its text lies in the second group."""
    target = torch.zeros(14, 3)
    target[1:7, 0], target[7:13, 1] = 10.0, 10.0
    text = torch.cat([torch.zeros(7, 2), torch.ones(7, 2)])
    seen = torch.arange(14).clamp(max=13)
    present = (seen > 0) & (seen < 13)
    quantizer = ResidualQuantizer([2])
    table = torch.full((14, 1), MISSING)
    table[present] = quantizer.fit(target[present])
    features = {"a": Features(target, present), "text": Features(text, seen > 0)}
    counts = item_codes._complete_target(table, torch.tensor([2]), quantizer, features, "a")
    assert counts.tolist() == [1, 0]
    assert table[13] == table[12] != table[1]


def test_missing_text_is_missing_in_the_table(rule_folder: Path) -> None:
    texts = item_texts()
    del texts["i4"]
    write_item(rule_folder / "data", "rule", texts)
    config, train = train_split(rule_folder)
    tokens = tokenize(typed(config, train), train)
    absent = (tokens.table.codes["text"] == MISSING).all(1).nonzero().flatten().tolist()
    assert absent == [0, train.token2id("item_id", "i4")]
    assert tokens.health["text"]["n_missing"] == 1


def test_no_text_at_all_leaves_the_modality_out(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (rule_folder / "data" / "rule" / "rule.item").unlink()
    tokens = tokens_of(rule_folder)
    assert tokens.table.modalities == ["collaborative"]
    assert "Modalities: collaborative. No item has text (" in caplog.text
    with pytest.raises(ValueError, match="target_modality text: no item has it"):
        tokens_of(rule_folder, target_modality="text")


def test_health_is_stored_as_json(rule_folder: Path) -> None:
    health = tokens_of(rule_folder).health
    (file,) = (rule_folder / "cache").glob("codes-*.health.json")
    assert json.loads(file.read_text()) == health
    assert set(health) == {"collaborative", "text"}
    assert health["text"]["levels"][0]["codebook_size"] == 6


def test_settings_that_do_not_fit_are_refused_before_any_stage(
    rule_folder: Path, stages: list[str]
) -> None:
    cases = [
        ({"codebook_size": 31}, r"codebook_size \(31\) must not exceed the number of items \(30\)"),
        ({"modalities": ["text", "smell"]}, r"modalities .*collaborative.*text"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["text", "text"], "target_modality": "text"}, "different names"),
        ({"modalities": ["text"]}, r"target_modality \(collaborative\) must be one of"),
        ({"codebook_size": [4, 4, 4]}, r"n_levels \(2\)"),
        ({"codebook_size": 1}, "at least 2"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            tokens_of(rule_folder, **changes)
    assert stages == []


def test_nan_and_constant_vectors_are_named(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, message in ((float("nan"), "NaN"), (1.0, "vectors are equal")):
        vectors = torch.full((31, 4), value)
        present = torch.arange(31) > 0
        monkeypatch.setattr(stages_module, "text_vectors", lambda *_, v=vectors, p=present: (v, p))
        with pytest.raises(UserError, match=f"^text codes: .*{message}"):
            tokens_of(rule_folder, cache_dir=str(rule_folder / message))


def test_a_modality_of_too_few_items_is_named(rule_folder: Path) -> None:
    file = rule_folder / "v.json"
    file.write_text(json.dumps({"i1": [1.0], "i2": [2.0]}))
    message = r"^text codes: .*\(6\) must not exceed .* \(2\): lower .* or leave this modality out"
    with pytest.raises(UserError, match=message):
        tokens_of(rule_folder, vectors_file={"text": str(file)})


def test_codebook_size_per_level() -> None:
    assert level_sizes(2, [4, 8]) == (4, 8)
    assert level_sizes(3, 4) == (4, 4, 4)


def test_codes_of_a_checkpoint_fit_only_its_items(rule_folder: Path) -> None:
    config, train = train_split(rule_folder)
    tokens = tokenize(typed(config, train), train)
    state = {"other_parameter": {"code_state": tokens.to_plain()}}
    again = from_checkpoint(state, train, "m.pth")
    assert torch.equal(again.table.target_codes, tokens.table.target_codes)
    write_dataset(rule_folder / "data", "rule", rule_sequences(n_items=29))
    with pytest.raises(ValueError, match="m.pth was trained on other items than the 29"):
        from_checkpoint(state, train_split(rule_folder)[1], "m.pth")
    with pytest.raises(ValueError, match="m.pth holds no item codes: it is not a checkpoint"):
        from_checkpoint({}, train, "m.pth")


def test_a_checkpoint_keeps_the_codebooks_behind_the_codes(rule_folder: Path) -> None:
    config, train = train_split(rule_folder)
    made = tokenize(typed(config, train), train)
    state = {"other_parameter": {"code_state": made.to_plain()}}
    for tokens in (tokenize(typed(config, train), train), from_checkpoint(state, train, "m.pth")):
        assert tokens.codebooks.keys() == tokens.table.codes.keys()
        features = stages_module.stage_of("text", typed(config, train), train)
        assert isinstance(features, stages_module.Stage)
        vectors, sizes = features.make().vectors, tokens.table.sizes["text"]
        quantizer = ResidualQuantizer(sizes)
        quantizer.codebooks = list(tokens.codebooks["text"].split(sizes))
        assert torch.equal(quantizer.encode(vectors[1:]), tokens.table.codes["text"][1:])


# --- several processes ----------------------------------------------------------------------------


@pytest.fixture
def shared_folder(rule_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a text encoder and images, and with k-means that is shared whatever its size."""
    monkeypatch.setattr(residual_kmeans, "_SHARED_FROM", 1)
    words = ["red", "green", "apple", "car"]
    texts = {f"i{i}": " ".join(words[i % 4 :] + words[: i % 7] + ["car"] * i) for i in range(30)}
    write_item(rule_folder / "data", "rule", texts)
    write_encoder(rule_folder / "bert", "bert")
    images = rule_folder / "data" / "rule" / "images"
    images.mkdir()
    for i, image in enumerate(coloured_shapes(20)):
        image.save(images / f"i{i}.png")
    return rule_folder


def shared_stages(folder: Path, **changes: Any) -> tuple[Any, Any]:
    """The settings and the train split of this data set."""
    chosen = {f"image_{name}": getattr(dino_settings(), name) for name in CONFIGURABLE}
    chosen |= {"modalities": ["text", "image"], "target_modality": "text", "image_workers": 0}
    chosen |= {"text_encoder": str(folder / "bert"), "text_batch_size": 4, "history_vectors": True}
    config, train = train_split(folder, **chosen, **changes)
    return typed(config, train), train


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["features", "rq_dino"])
def test_several_processes_make_the_codes_of_one(
    shared_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Features and their codes to the last digit; the first process alone writes files."""
    one = tokenize(*shared_stages(shared_folder, image_tokenizer=kind, cache_dir="one"))
    saved: list[str] = []
    monkeypatch.setattr(cache, "save", lambda folder, stage, *_: saved.append(stage))

    def made() -> tuple[dict[str, Any], list[str]]:
        chosen = shared_stages(shared_folder, image_tokenizer=kind, cache_dir="several")
        return tokenize_once(*chosen).to_plain(), saved

    (first, by_first), (second, by_second) = in_processes(2, made)
    assert by_first == ["text", "image_encoder", "image", "codes"] and by_second == []
    assert json.dumps(first["table"], default=str) == json.dumps(second["table"], default=str)
    exact = ("text", "image") if kind == "features" else ("text",)
    for name in exact:
        assert torch.equal(first["vectors"][name], one.vectors[name])
        assert torch.equal(first["table"]["codes"][name], one.table.to_plain()["codes"][name])
        assert torch.equal(first["codebooks"][name], one.codebooks[name])
    assert first["vectors"].keys() == one.vectors.keys()


STAGES = {
    "text": (text_encoder, "pooled", {}),
    "image": (encoding, "plain_view", {"image_tokenizer": "features"}),
    "RQ-DINO": (training, "koleo", {}),
    "k-means": (residual_kmeans, "_plus_plus", {"image_tokenizer": "features"}),
}


@pytest.mark.parametrize(
    ("stage", "killed"), [("text", 1), ("image", 0), ("RQ-DINO", 0), ("RQ-DINO", 1), ("k-means", 1)]
)
def test_a_process_that_dies_in_a_stage_ends_the_others(
    shared_folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str, killed: int
) -> None:
    module, name, changes = STAGES[stage]
    original = getattr(module, name)

    def die(*args: Any, **kwargs: Any) -> Any:
        if processes.rank() == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    def made() -> None:
        chosen = shared_stages(shared_folder, **changes)
        start = time.monotonic()
        monkeypatch.setattr(module, name, die)
        try:
            tokenize_once(*chosen)
        except Exception as error:
            if processes.lost_another(error) and time.monotonic() - start < 60:
                raise UserError(f"lost after {time.monotonic() - start:.0f} s") from error
            raise

    with pytest.raises(UserError, match="lost after"):
        in_processes(2, made)


def test_an_error_in_a_stage_is_told_by_the_process_that_has_it(
    shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, on a machine whose images are damaged."""

    def made() -> None:
        chosen = shared_stages(shared_folder, image_tokenizer="features")
        if processes.rank() == 1:
            monkeypatch.setattr("recbole_mscgrec.features.images.load_image", Path.read_text)
        tokenize_once(*chosen)

    with pytest.raises(UserError, match="was readable when this run started"):
        in_processes(2, made)
