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
        ({"encoder_attention": "bidirectional"}, "needs train_rows=prefix, not tiled: .*targets"),
        ({"train_rows": "prefix", "random_windows": True}, "random_windows=True needs train_rows"),
        ({"code_bias": True}, "code_bias=True needs history_tokens=code, not item"),
        (
            {"constrained_decoding": "none", "exclude_seen": True},
            "exclude_seen=True needs constrained_decoding=hard",
        ),
        (
            {"constrained_decoding": "soft", "soft_penalty": 0.0},
            "soft_penalty .0.0. must be above 0",
        ),
        ({"modality_mask_prob": 1.0}, "modality_mask_prob .1.0. must be at least 0 and below 1"),
        ({"modality_mask_prob": None}, "modality_mask_prob .None. must be at least 0 and below 1"),
        ({"neighbour_prob": -0.1}, "neighbour_prob .-0.1. must be at least 0 and below 1"),
        (
            {"history_vectors": True, "history_tokens": "code"},
            "history_vectors=True needs history_tokens=item, not code",
        ),
        (
            {"encoder": "gru", "encoder_attention": "bidirectional", "train_rows": "prefix"},
            "encoder=gru needs encoder_attention=item_causal, not bidirectional",
        ),
        (
            {"encoder": "gru", "history_tokens": "code"},
            "encoder=gru needs history_tokens=item, not code",
        ),
        (
            {"learned_vectors": True, "history_tokens": "code"},
            "learned_vectors=True needs history_tokens=item, not code",
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
    "encoder_attention": "bidirectional",
    "history_tokens": "code",
    "train_rows": "prefix",
    "code_bias": True,
    "cross_bias": False,
    "start_token": "learned",
}


@pytest.mark.parametrize(
    "changes",
    [
        PAPER,
        {"train_rows": "prefix"},
        {"history_tokens": "code", "code_bias": True, "modality_mask_prob": 0.3},
        {"item_bias": False},
        {"constrained_training": False},
        {"constrained_decoding": "none"},
        {"constrained_decoding": "soft", "constrained_training": False},
        {"collision": "redistribute", "quantizer": "sinkhorn"},
        {"target_modality": "text"},
        {"neighbour_prob": 0.3},
        {"target_modality": "fused"},
        {"history_vectors": True, "modality_mask_prob": 0.3, "shuffle_codes": True},
        {"encoder": "gru", "n_encoder_layers": 2, "learned_vectors": True, "random_windows": True},
        {"encoder": "gru", "train_rows": "prefix", "history_vectors": True},
        {"history_vectors": True, "train_rows": "prefix", "item_bias": False},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()),
)
def test_every_switch_runs_and_predict_agrees_with_the_beam(
    rule_folder: object, changes: dict
) -> None:
    result = run("MSCGRec", "rule", config_dict=settings(rule_folder, **changes))
    assert 0 <= result["test_result"]["recall@10"] <= 1
    free = changes.get("constrained_decoding", "hard") != "hard"
    assert ("invalid_share" in result) == free
    if free:
        assert 0 <= result["invalid_share"] < 1
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
