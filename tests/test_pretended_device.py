"""Training, beam search and scoring on a device other than the CPU: nothing is left on the CPU, a
training step never makes the host wait, and the results are those of the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_device import DEVICE, PretendedTensor, Refused, one_step, pretended_device
from recbole.utils import get_trainer
from tiny import (
    build,
    code_table,
    coloured_shapes,
    dino_settings,
    item_texts,
    learned_ids,
    network_sizes,
    randomize,
    rule_sequences,
    settings,
    train_split,
    typed,
    write_dataset,
)

from recbole_mscgrec.features.sasrec_training import SASRecTraining
from recbole_mscgrec.network.beam_search import Beams
from recbole_mscgrec.network.history import HistoryTokens
from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.network.unpad import positions
from recbole_mscgrec.rq_dino.training import DinoTraining
from recbole_mscgrec.rq_dino.views import Pixels
from recbole_mscgrec.semantic_ids.item_filter import ExcludedItems

Tensor = torch.Tensor


# --- the device itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "planted",
    [
        lambda x: x + torch.arange(3),  # made on the default device
        lambda x: torch.zeros(3),
        lambda x: x.cpu(),
        lambda x: x.sum().item(),
        lambda x: int(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: torch.bincount(x.long()),
    ],
)
def test_a_step_refuses_what_leaves_the_device_or_waits_for_it(
    planted: Callable[[Tensor], object],
) -> None:
    with pretended_device():
        x = torch.ones(3).to(DEVICE)
        planted(torch.ones(3))  # which is no step on the device
        with pytest.raises(Refused), one_step():
            planted(x)


def test_tensors_of_two_devices_do_not_mix() -> None:
    on_cpu = torch.tensor([0, 2])
    with pretended_device():
        x = torch.arange(3.0).to(DEVICE)
        for mixed in (
            lambda: x[on_cpu],
            lambda: x.index_select(0, on_cpu),
            lambda: x + on_cpu[0:1],
        ):
            with pytest.raises(Refused, match="two devices"):
                mixed()
        assert x[on_cpu.to(DEVICE)].cpu().tolist() == [0, 2]


def test_numbers_and_gradients_are_real() -> None:
    with pretended_device():
        weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]).to(DEVICE))
        with one_step():
            (weight * weight * torch.arange(1, 3, device=DEVICE)).sum().backward()
        assert weight.grad is not None and weight.grad.device == DEVICE
        assert weight.grad.cpu().tolist() == [4.0, 12.0]


# --- the network ----------------------------------------------------------------------------------

VECTORS = {"a": torch.randn(25, 7, generator=torch.Generator().manual_seed(1))}
FORMS: dict[str, dict[str, Any]] = {
    "attention": {},
    "learned_vectors": {"learned_items": 24},
    "some_learned_vectors": {"learned_items": 5},
    "history_vectors": {"vectors": VECTORS},
    "convolution": {"conv_kernel_size": 3},
    "code_tokens": {"history_tokens": "code", "code_bias": True},
    "bidirectional": {"history_tokens": "code", "encoder_attention": "bidirectional"},
    "t5": {"decoder": "t5"},
    "unconstrained": {"constrained": False},
}


def network(**changes: Any) -> CodeNetwork:
    torch.manual_seed(0)
    vectors = changes.pop("vectors", None)
    changes.pop("constrained", None)
    sizes = network_sizes(**changes)
    made = CodeNetwork(code_table(), sizes, vectors, learned_ids(sizes.learned_items))
    randomize(made)
    with torch.no_grad():
        made.history.code_embedding.weight[0].zero_()  # the padding row, which is never trained
    return made.train()


def loss_of(model: CodeNetwork, items: Tensor, targets: Tensor, constrained: bool = True) -> Tensor:
    """As MSCGRec's; targets (B, T), or (B, 1) for the last position of each row."""
    limit = torch.arange(items.size(1), device=items.device).unsqueeze(0)
    if targets.size(1) == 1:
        limit = (items != 0).sum(1, keepdim=True) - 1
    wanted = targets.flatten()
    place = positions(wanted != 0)
    wanted, encoded = wanted[place], model.encode(items)
    levels = model.level_log_probs(encoded, limit, wanted, place, constrained)
    return -levels.sum() / wanted.count_nonzero()


def a_batch(last_only: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    real = torch.arange(6) < torch.tensor([3, 6, 1, 5]).unsqueeze(1)
    items, targets = (torch.randint(1, 25, (4, 6), generator=generator) * real for _ in range(2))
    return items, targets[:, :1] if last_only else targets


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("name", FORMS)
def test_all_positions_under_a_mask_give_the_loss_and_the_gradients_of_the_needed_ones(
    name: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if masked:  # the same modalities on both devices
        drawn = torch.rand(4, 6, 2, generator=torch.Generator().manual_seed(2)) < 0.4
        drawn[..., 0] &= ~drawn[..., 1]
        both = {"cpu": drawn}
        monkeypatch.setattr(HistoryTokens, "_random_mask", lambda _, x: both[x.device.type])
    form = FORMS[name] | {"modality_mask_prob": 0.4 * masked}
    constrained = form.get("constrained", True)
    model, (items, targets) = network(**form), a_batch(name == "bidirectional")
    expected = loss_of(model, items, targets, constrained)
    expected.backward()
    with pretended_device():
        there = copy.deepcopy(model).to(DEVICE)
        there.zero_grad()
        batch = items.to(DEVICE), targets.to(DEVICE)
        if masked:
            both[DEVICE.type] = drawn.to(DEVICE)
        with one_step():
            found = loss_of(there, *batch, constrained)
            found.backward()
        torch.testing.assert_close(found.detach().cpu(), expected.detach())
        for (name, one), other in zip(model.named_parameters(), there.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None), name
            if one.grad is not None and other.grad is not None:
                torch.testing.assert_close(
                    other.grad.cpu(), one.grad, rtol=1e-4, atol=1e-5, msg=name
                )


def test_random_parts_of_a_training_step_stay_on_the_device() -> None:
    model = network(modality_mask_prob=0.5, neighbour_prob=0.5, dropout_prob=0.5)
    with pretended_device():
        model = model.to(DEVICE)
        batch = [part.to(DEVICE) for part in a_batch(last_only=False)]
        with one_step():
            loss_of(model, *batch).backward()
        assert model.start.grad is not None and bool(model.start.grad.isfinite().all())


@pytest.mark.parametrize(
    "name",
    ["attention", "learned_vectors", "some_learned_vectors", "convolution", "unconstrained"],
)
@pytest.mark.parametrize("filtered", [False, True], ids=["", "filtered"])
def test_beams_are_those_of_the_cpu(name: str, filtered: bool) -> None:
    model, (items, _) = network(**FORMS[name]).eval(), a_batch(last_only=True)
    constrained = name != "unconstrained"

    def beams(items: Tensor, last: Tensor, width: int) -> Beams:
        seen = ExcludedItems(model.tree, items) if filtered else None
        encoded = model.encode(items)
        if items.device == DEVICE:
            with one_step():
                return model.beams(encoded, last, width, seen, constrained)
        return model.beams(encoded, last, width, seen, constrained)

    last = (items != 0).sum(1, keepdim=True) - 1
    with torch.no_grad(), pretended_device():
        both = [beams(items, last, width) for width in (8, 24)]
        model.to(DEVICE)
        for width, expected in zip((8, 24), both, strict=True):
            found = beams(items.to(DEVICE), last.to(DEVICE), width)
            assert isinstance(found.items, PretendedTensor)
            assert torch.equal(found.items.cpu(), expected.items)
            torch.testing.assert_close(found.log_probs.cpu(), expected.log_probs)


# --- whole stages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tiled", "prefix"])
def test_training_and_evaluation_of_mscgrec(rule_folder: Path, form: str) -> None:
    write_dataset(rule_folder / "data", "rule", rule_sequences(n_users=8), item_texts())
    chosen = settings(rule_folder, train_rows=form, exclude_seen="all", epochs=1)
    config, model, train, valid, _ = build("MSCGRec", "rule", chosen)
    batch = next(iter(valid))[0]
    expected = model.eval().full_sort_predict(batch)
    with pretended_device():
        config["device"] = DEVICE
        model.to(DEVICE)
        torch.testing.assert_close(model.full_sort_predict(batch.to(DEVICE)).cpu(), expected)
        items = batch["item_id"].to(DEVICE)
        alone = model.predict(batch.to(DEVICE)).cpu()
        torch.testing.assert_close(alone, expected.gather(1, items.cpu().unsqueeze(1)).squeeze(1))
        rows = next(iter(train)).to(DEVICE)
        with one_step():
            model.train().calculate_loss(rows).backward()
        trainer = get_trainer(config["MODEL_TYPE"], "MSCGRec")(config, model)
        _, result = trainer.fit(train, valid, saved=False)
    on_cpu = build("MSCGRec", "rule", chosen).model
    on_cpu.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
    config["device"] = torch.device("cpu")
    with torch.no_grad():
        for trained, average in zip(on_cpu.parameters(), trainer.average, strict=True):
            trained.copy_(average.cpu())
    trainer = get_trainer(config["MODEL_TYPE"], "MSCGRec")(config, on_cpu)
    trainer.eval_collector.data_collect(train)
    assert trainer.evaluate(valid, load_best_model=False) == result


@pytest.mark.parametrize("n_negatives", [0, 6])
def test_the_sasrec_stage(rule_folder: Path, n_negatives: int) -> None:
    config, train = train_split(rule_folder, collaborative_n_negatives=n_negatives)
    chosen = typed(config, train)
    with pretended_device():
        run = replace(chosen.run, device=DEVICE)
        training = SASRecTraining(chosen.collaborative, run, train)
        optimizer = torch.optim.Adam(training.model.parameters(), lr=0.01)
        training.model.train()
        losses = [training.train_epoch(optimizer) for _ in range(3)]
        training.model.eval()
        assert losses[2] < losses[0] and 0 <= training.score() <= 1
        weight = training.model.item_embedding.weight
        assert isinstance(weight, PretendedTensor) and weight.grad is not None


def test_rq_dino(tmp_path: Path) -> None:
    chosen = dino_settings(restart_below=0.9)
    pixels = Pixels(coloured_shapes(16), chosen)
    made = {}
    for device in (torch.device("cpu"), DEVICE):
        with pretended_device():
            training = DinoTraining(
                pixels, chosen, [4, 3], seed=1, device=device, partial=tmp_path / str(device.type)
            )
            training._save = lambda: None  # the device has no file format
            training.run()
            made[device.type] = training
    rows = [made[name].history["epochs"] for name in ("cpu", DEVICE.type)]
    assert rows[0][1]["restarted"] > 0  # this part has run, too
    for one, other in zip(*rows, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-3), name
