"""Which switches fit together."""

from __future__ import annotations

import pytest
import torch
from tiny import build, random_sequences, settings, write_dataset

from recbole_mscgrec.runner.quick_start import run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder_attention": "both"},
            "encoder_attention .'both'. must be one of item_causal, bi",
        ),
        ({"n_heads": 3}, "hidden_size .16. must be a multiple of n_heads .3."),
        ({"eval_drop_modality": "image"}, "eval_drop_modality .image. .* has .'collab.*, 'text'"),
        ({"collaborative_n_heads": 3}, "collaborative_size .8. must be a multiple of .*heads .3."),
        ({"encoder_attention": "bidirectional"}, "needs train_rows=prefix, not tiled: .*targets"),
        ({"code_bias": True}, "code_bias=True needs history_tokens=code, not item"),
        ({"loss_type": "BPR"}, "loss_type .'BPR'. must be one of CE"),
        ({"decoder": "gpt"}, "decoder .'gpt'. must be one of item_aware, t5"),
        (
            {"modality_mask_prob": 1.0},
            "modality_mask_prob .1.0. must be a number, at least 0",
        ),
        ({"modality_mask_prob": None}, "modality_mask_prob .None. must be a number, at least 0"),
        (
            {"neighbour_prob": -0.1},
            "neighbour_prob .-0.1. must be a number, at least 0",
        ),
        ({"ema_decay": 1.0}, "ema_decay .1.0. must be a number, at least 0"),
        ({"rescore_weight": "best"}, "rescore_weight .best. must be a number from 0 to 1.* or fit"),
        ({"rescore_weight": [0.5]}, "rescore_weight .* a list of 0 such numbers"),
        (
            {"rescore_model": ["a", "b"], "rescore_weight": [0.6, 0.6]},
            "rescore_weight .* a list of 2 such numbers with a sum of at most 1",
        ),
        ({"rescore_model": ["a", "a"]}, "rescore_model .* a list of different ones"),
        (
            {"rescore_model": "a", "rescore_weight": "fit", "eval_args": {"mode": "uni100"}},
            "rescore_weight=fit ranks all items .* mode is uni100 there",
        ),
        ({"rescore_weight": 1.5}, "rescore_weight .1.5. must be a number from 0 to 1"),
        (
            {"history_vectors": True, "history_tokens": "code"},
            "history_vectors=True needs history_tokens=item, not code",
        ),
        ({"compile": "fast"}, "compile .'fast'. must be True or False"),
        ({"amp_dtype": "float16"}, "amp_dtype .'float16'. must be one of bf16, fp16"),
        (
            {"learned_items": 24, "history_tokens": "code"},
            "learned_items=24 needs history_tokens=item, not code",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    rule_folder: object, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build("MSCGRec", "rule", settings(rule_folder, **changes))
    assert not (rule_folder / "cache").exists()


PAPER = {
    "conv_kernel_size": 0,
    "encoder_attention": "bidirectional",
    "history_tokens": "code",
    "train_rows": "prefix",
    "code_bias": True,
    "decoder": "t5",
}


@pytest.mark.parametrize(
    "changes",
    [
        PAPER,
        {"train_rows": "prefix"},
        {"history_tokens": "code", "code_bias": True, "modality_mask_prob": 0.3},
        {"decoder": "t5"},
        {"constrained_training": False},
        {"collision": "redistribute"},
        {"target_modality": "text"},
        {"neighbour_prob": 0.3},
        {"target_modality": "fused"},
        {"history_vectors": True, "modality_mask_prob": 0.3},
        {"conv_kernel_size": 0, "n_encoder_layers": 2, "learned_items": 24},
        {"history_vectors": True, "train_rows": "prefix"},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()),
)
def test_every_switch_runs_and_predict_agrees_with_the_beam(
    rule_folder: object, changes: dict
) -> None:
    result = run("MSCGRec", "rule", config_dict=settings(rule_folder, **changes))
    assert sum(result["level_share"]) == pytest.approx(1, abs=1e-3)
    model = build("MSCGRec", "rule", settings(rule_folder, **changes))
    rows = model.test.dataset.inter_feat[:20]
    with torch.no_grad():
        beams = model.model.eval().recommend(rows)
        for place in range(3):
            real = beams.items[:, place] != 0
            assert bool(real.any())
            rows.interaction[model.model.ITEM_ID] = beams.items[:, place]
            exact = model.model.predict(rows[real])
            torch.testing.assert_close(beams.log_probs[real, place], exact, rtol=1e-3, atol=1e-4)


def test_prefix_rows_and_tiled_rows_have_the_same_loss(tmp_path: object) -> None:
    """Sequences that fit one window: the mean over prefixes is the mean over positions, and the
    collaborative stage sees the same windows (its vectors are reused)."""
    write_dataset(tmp_path / "data", "short", random_sequences(30, 20, 4, 9))
    chosen = settings(tmp_path, modalities=["collaborative"])
    tiled = build("MSCGRec", "short", chosen)
    made = sorted((tmp_path / "cache").glob("collaborative-*"))
    prefix = build("MSCGRec", "short", {**chosen, "train_rows": "prefix"})
    assert sorted((tmp_path / "cache").glob("collaborative-*")) == made
    prefix.model.load_state_dict(tiled.model.state_dict())
    losses = [b.model.eval().calculate_loss(b.train.dataset.inter_feat) for b in (tiled, prefix)]
    torch.testing.assert_close(*losses)
    assert len(prefix.train.dataset.inter_feat) > 3 * len(tiled.train.dataset.inter_feat)
