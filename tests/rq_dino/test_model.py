"""DINO's parts against known answers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import dino_settings

from recbole_mscgrec.rq_dino.backbone import make_backbone
from recbole_mscgrec.rq_dino.model import (
    DinoHead,
    DinoNetwork,
    TeacherTargets,
    dino_loss,
    ema_update,
    koleo,
    sinkhorn,
)


def test_sinkhorn_rows_are_distributions_and_columns_even() -> None:
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    plan = sinkhorn(logits, 0.5, n_steps=100)
    assert torch.allclose(plan.sum(1), torch.ones(12))
    assert torch.allclose(plan.sum(0), torch.full((4,), 3.0), atol=1e-3)


def test_sinkhorn_breaks_a_collapse_and_survives_low_temperatures() -> None:
    logits = torch.tensor([[1.0, 0.0]] * 2 + [[1.0, -0.1]] * 2)  # all prefer the first prototype
    plan = sinkhorn(logits, 0.01, n_steps=200)
    assert torch.isfinite(plan).all()
    assert plan.argmax(1).tolist() == [1, 1, 0, 0]


def test_teacher_is_a_running_mean() -> None:
    teacher, student = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        teacher.weight.fill_(1.0)
        student.weight.fill_(3.0)
        student.running_mean.fill_(4.0)
    student.num_batches_tracked.fill_(7)
    ema_update(teacher, student, 0.75)
    assert teacher.weight.tolist() == [1.5, 1.5] and teacher.running_mean.tolist() == [1.0, 1.0]
    assert int(teacher.num_batches_tracked) == 7
    assert student.weight.tolist() == [3.0, 3.0]


def test_loss_equals_cross_entropy_over_pairs_of_different_views() -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(4, 5, 6, generator=generator)
    teacher = torch.randn(2, 5, 6, generator=generator).softmax(-1)
    pairs = [(t, v) for t in range(2) for v in range(4) if t != v]
    by_hand = [F.cross_entropy(student[v] / 0.1, teacher[t]) for t, v in pairs]
    assert float(dino_loss(student, teacher, 0.1)) == pytest.approx(
        float(sum(by_hand)) / 6, rel=1e-5
    )


def test_loss_of_a_collapsed_student_is_log_out_dim() -> None:
    teacher = torch.randn(2, 3, 8).softmax(-1)
    assert float(dino_loss(torch.zeros(3, 3, 8), teacher, 0.1)) == pytest.approx(math.log(8))


def test_centre_is_a_running_mean_that_is_taken_off() -> None:
    targets = TeacherTargets(
        dino_settings(teacher_balance="centre", out_dim=2, teacher_temperature=1.0)
    )
    logits = torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    assert torch.allclose(targets(logits), logits.softmax(1))
    assert torch.allclose(targets.centre, torch.tensor([0.3, 0.0]))
    assert torch.allclose(targets(logits), (logits - torch.tensor([0.3, 0.0])).softmax(1))


def test_head_gives_cosines() -> None:
    head = DinoHead(6, dino_settings(out_dim=9))
    logits = head(torch.randn(4, 6))
    assert logits.shape == (4, 9) and float(logits.detach().abs().max()) <= 1 + 1e-6


def test_student_is_quantized_before_its_head_and_the_teacher_is_not() -> None:
    settings = dino_settings()
    student = DinoNetwork(make_backbone(settings), settings, [3, 3])
    teacher = DinoNetwork(make_backbone(settings), settings, None)
    ema_update(teacher, student, 0.0)
    large, small = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 8, 8)
    student.eval(), teacher.eval()
    assert torch.allclose(student(large, small)[0], teacher(large, small)[0])  # not yet started
    features = teacher(large, small)[1]
    student.quantizer.start(features.detach(), seed=0, batch_size=8)
    logits, continuous, quantized = student(large, small)
    assert torch.allclose(continuous, features, atol=1e-6)
    codes = quantized.codes
    words = sum(b[codes[:, i]] for i, b in enumerate(student.quantizer.codebooks))
    assert torch.allclose(logits, student.head(words), atol=1e-5)
    assert not torch.allclose(logits, teacher(large, small)[0], atol=1e-4)
    assert teacher.quantizer is None


def test_codes_and_logits_are_made_in_full_precision_under_autocast() -> None:
    settings = dino_settings()
    student = DinoNetwork(make_backbone(settings), settings, [3, 3]).eval()
    images = torch.rand(6, 3, 16, 16)
    student.quantizer.start(student(images)[1].detach(), seed=0, batch_size=6)
    with torch.autocast("cpu", torch.bfloat16):
        logits, features, quantized = student(images)
    assert logits.dtype == features.dtype == quantized.vectors.dtype == torch.float32
    assert torch.equal(quantized.vectors, student.quantizer(features).vectors)
    logits.sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in student.parameters())


def test_spread_is_the_log_distance_to_the_nearest() -> None:
    """Unit vectors at 0, 60 and 180 degrees: chords to the nearest are 1, 1 and the root of 3."""
    degrees = torch.tensor([0.0, 60.0, 180.0]).deg2rad()
    vectors = 5 * torch.stack([degrees.cos(), degrees.sin()], dim=1)
    assert float(koleo(vectors)) == pytest.approx(-math.log(3) / 6, abs=1e-6)
    assert torch.isfinite(koleo(torch.ones(3, 2)))
