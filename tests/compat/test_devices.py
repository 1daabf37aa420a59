"""RecBole's training with mixed precision, and for other devices than the CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import recbole.trainer.trainer as recbole_trainer
import torch
from pretended_device import DEVICE, PretendedTensor, pretended_device
from recbole.data.interaction import Interaction
from recbole.utils import get_trainer
from tiny import Built, build, protocol, settings

from recbole_mscgrec.storage.errors import UserError

SMALL = {"epochs": 1, "dropout_prob": 0.0, "ema_decay": 0.0}


def trained(built: Built, **changes: Any) -> tuple[float, torch.Tensor]:
    """The loss of the first epoch, and all weights after it, of a copy of the model."""
    model = copy.deepcopy(built.model)
    trainer = get_trainer(built.config["MODEL_TYPE"], built.config["model"])(built.config, model)
    vars(trainer).update(changes)
    built.train.generator.manual_seed(1)
    torch.manual_seed(1)
    loss = trainer._train_epoch(built.train, 0)
    return loss, torch.cat([p.detach().cpu().flatten() for p in model.parameters()])


def test_bfloat16_gives_nearly_the_same_step(rule_folder: Path) -> None:
    one_step = {"learner": "sgd", "weight_decay": 0.0, "train_batch_size": 4096}
    built = build("MSCGRec", "rule", settings(rule_folder, **SMALL, **one_step, amp_dtype="bf16"))
    before = torch.cat([p.detach().flatten() for p in built.model.parameters()])
    kinds = []
    built.model.network.encoder[0].qkv.register_forward_hook(lambda *a: kinds.append(a[2].dtype))
    loss, weights = trained(built)
    assert set(kinds) == {torch.bfloat16} and built.config["enable_scaler"] is False
    exact_loss, exact = trained(built, enable_amp=False)
    assert kinds[-1] == torch.float32
    assert loss == pytest.approx(exact_loss, rel=0.01) and loss != exact_loss
    assert torch.cosine_similarity(weights - before, exact - before, dim=0) > 0.99


def test_float16_needs_a_gpu(rule_folder: Path) -> None:
    with pytest.raises(UserError, match="amp_dtype .fp16. needs a GPU.*use bf16"):
        build("SASRec", "rule", protocol(rule_folder, amp_dtype="fp16"))


def test_gradients_are_clipped_after_they_are_unscaled(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = {"clip_grad_norm": {"max_norm": 0.01}, "learner": "sgd", "train_batch_size": 4096}
    built = build("TiledSASRec", "rule", protocol(rule_folder, **clip, weight_decay=0.0))
    before = torch.cat([p.detach().flatten() for p in built.model.parameters()])

    class Scaler(torch.amp.GradScaler):  # RecBole's knows GPUs only
        def __init__(self, enabled: bool) -> None:
            super().__init__("cpu", enabled=enabled)

    monkeypatch.setattr(recbole_trainer.amp, "GradScaler", Scaler)
    for scaled in (False, True):
        _, after = trained(built, enable_scaler=scaled)
        length = built.config["learning_rate"] * 0.01  # of the only step
        assert float((after - before).norm()) == pytest.approx(length, rel=0.01), scaled


def test_an_epoch_on_a_gpu_waits_for_it_once(rule_folder: Path) -> None:
    chosen = settings(rule_folder, **SMALL, clip_grad_norm={"max_norm": 0.1}, train_batch_size=8)
    built = build("MSCGRec", "rule", chosen)
    expected, weights = trained(built)
    assert len(built.train) == 5
    with pretended_device() as device:
        built.config["device"] = DEVICE
        built.model.to(DEVICE)
        before = device.waits
        found, there = trained(built)
        n_copies = sum(1 for _ in built.model.parameters())  # of the weights, at the end
        assert device.waits - before == 1 + n_copies
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(there, weights, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_a_number_is_told_on_a_gpu_too(rule_folder: Path) -> None:
    built = build("TiledSASRec", "rule", protocol(rule_folder))
    with torch.no_grad():
        built.model.item_embedding.weight.fill_(torch.nan)
    with pretended_device():
        built.config["device"] = DEVICE
        built.model.to(DEVICE)
        with pytest.raises(ValueError, match="^Training loss is nan$"):
            trained(built)


def test_batches_go_to_a_gpu_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, sent = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(t) or t)
    monkeypatch.setattr(torch.Tensor, "to", lambda t, *a, **k: sent.append((a, k)) or t + 1)
    batch = Interaction({"a": torch.tensor([1, 2]), "b": torch.tensor([5, 6])})
    moved = batch.to("cuda")
    assert moved["a"].tolist() == [2, 3] and moved["b"].tolist() == [6, 7]
    assert len(pinned) == 2 and sent == [(("cuda",), {"non_blocking": True})] * 2
    part = batch.to(torch.device("cuda", 1), selected_field="b")
    assert part["a"].tolist() == [1, 2] and part["b"].tolist() == [6, 7]
    pinned.clear()
    batch.to("cpu")
    assert not pinned


@pytest.mark.parametrize("fused", [False, True])
def test_a_resumed_optimizer_counts_steps_where_it_began(fused: bool) -> None:
    from recbole_mscgrec.storage.checkpoint import restore_optimizer

    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.Adam([weight])
    optimizer.step()
    with pretended_device():
        there = torch.nn.Parameter(weight.detach().to(DEVICE))
        state = optimizer.state_dict()
        state["state"][0] = {k: v.to(DEVICE) for k, v in state["state"][0].items()}
        resumed = torch.optim.Adam([there])
        resumed.param_groups[0]["fused"] = fused or None
        state["param_groups"][0]["fused"] = fused or None
        restore_optimizer(resumed, state)
        held = resumed.state[there]
        assert isinstance(held["step"], PretendedTensor) is fused
        assert isinstance(held["exp_avg"], PretendedTensor)
        assert float(held["step"]) == 1
