"""The training loop of RQ-DINO: schedules, checkpoints for resuming, TensorBoard."""

from __future__ import annotations

import math
import time
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from recbole_mscgrec.rq_dino import joint_batch
from recbole_mscgrec.rq_dino.backbone import Backbone, Projection, make_backbone
from recbole_mscgrec.rq_dino.encoding import encode
from recbole_mscgrec.rq_dino.joint_batch import Part
from recbole_mscgrec.rq_dino.model import (
    DinoNetwork,
    Student,
    TeacherTargets,
    dino_loss,
    ema_update,
    koleo,
)
from recbole_mscgrec.rq_dino.quantizer import perplexities
from recbole_mscgrec.rq_dino.schedule import cosine, parameter_groups
from recbole_mscgrec.rq_dino.settings import RQDinoSettings
from recbole_mscgrec.rq_dino.views import Pixels, multi_crop
from recbole_mscgrec.storage import checkpoint, files, matching, processes, schema
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
History = dict[str, Any]
_EVEN = 0.5  # minimum perplexity of a level, as a share of its codewords
_EPOCH_SEEDS = 1_000_003  # difference between the seeds of two epochs; above the steps per epoch


class DinoTraining:
    """Student, EMA teacher and optimizer, trained epoch by epoch on n images. If several processes
    train together, they share every batch, and the first one writes the files.

    Args:
        pixels: the images.
        codebook_sizes: K of each level.
        seed: each epoch and step seeds the generator with this seed and its own number, so that a
            resumed run gives the same result as an uninterrupted one.
        partial: file for the state after the last finished epoch; the caller removes it at the end.
        log_dir: folder for TensorBoard, or None.
    """

    def __init__(
        self,
        pixels: Pixels,
        settings: RQDinoSettings,
        codebook_sizes: list[int],
        *,
        seed: int,
        device: torch.device | str,
        partial: Path,
        log_dir: Path | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.pixels, self.settings, self.seed = pixels, settings, seed
        self.device, self.partial, self.log_dir = torch.device(device), partial, log_dir
        frozen: Backbone | nn.Identity = nn.Identity()
        if settings.projection:  # convolutions are a third faster with channels last
            frozen = make_backbone(settings).to(self.device).to(memory_format=torch.channels_last)
        self.frozen = frozen.eval().requires_grad_(False)
        student = Student(self._backbone(settings.drop_path), settings, codebook_sizes)
        teacher = DinoNetwork(self._backbone(), settings, None)
        for network in (student, teacher):
            network.backbone = joint_batch.with_batch_norm(
                network.backbone, settings.backbone, self.device
            )
        self.student = student.to(self.device)
        self.teacher = teacher.to(self.device).requires_grad_(False)
        self.targets = TeacherTargets(settings).to(self.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.student), lr=settings.learning_rate
        )
        self.n_batches = max(1, round(len(pixels) / settings.batch_size))
        joint_batch.check_parts(len(pixels), self.n_batches)
        self.epoch = 0
        self.history: History = {"log_out_dim": math.log(settings.out_dim), "seconds": 0.0}
        self.history["epochs"] = []
        self._resume()
        if self.epoch == 0 and isinstance(student.backbone, Projection):
            student.backbone.start(encode(self.frozen, pixels, settings, self.device))
        with torch.no_grad():
            example = self.frozen(torch.zeros(1, 3, settings.size, settings.size).to(self.device))
        self.joint_student = joint_batch.with_gradients(self.student, example)
        if self.epoch == 0:
            ema_update(self.teacher, self.student, 0.0)

    def _backbone(self, drop_path: float = 0.0) -> Backbone | Projection:
        """The trained part of the image encoder."""
        width = self.settings.projection
        if not width or isinstance(self.frozen, nn.Identity):
            return make_backbone(self.settings, drop_path)
        if width > min(self.frozen.width, len(self.pixels)):
            raise UserError(
                f"image_projection ({width}) must be at most the width of image_backbone's vectors "
                f"({self.frozen.width}) and the number of images ({len(self.pixels)})."
            )
        return Projection(self.frozen.width, width)

    @property
    def encoder(self) -> nn.Module:
        """The encoder from images to the student's vectors."""
        return nn.Sequential(self.frozen, self.student.backbone)

    def run(self, show_progress: bool = False) -> None:
        """Train the remaining epochs."""
        writer = _writer(self.log_dir) if processes.is_first() else None
        bar = tqdm(
            total=self.settings.epochs * self.n_batches,
            initial=self.epoch * self.n_batches,
            ncols=100,
            desc="RQ-DINO   ",
            disable=not (show_progress and processes.is_first()),
        )
        while self.epoch < self.settings.epochs:
            start = time.perf_counter()
            row = self._train_epoch(bar)
            seconds = time.perf_counter() - start
            self._record(row, seconds, writer)
            bar.set_postfix_str(f"loss {row['dino_loss']:.3f}")
            if processes.is_first():
                self._save()
        bar.close()
        if writer:
            writer.close()

    # --- one epoch --------------------------------------------------------------------------------

    def _train_epoch(self, bar: Any) -> dict[str, Any]:
        settings, quantizer = self.settings, self.student.quantizer
        torch.manual_seed(self.seed + _EPOCH_SEEDS * (self.epoch + 1))
        fitted = settings.quantize and self.epoch >= settings.quantize_after and self._unfit()
        if fitted:
            features = encode(self.encoder, self.pixels, settings, self.device)
            quantizer.start(features, self.seed, 2 * len(self.pixels) // self.n_batches)
            processes.copy_first(quantizer.state())
        order = torch.randperm(len(self.pixels)).tensor_split(self.n_batches)
        parts = [Part(len(images)) for images in order]
        mine = [images[part.rows] for images, part in zip(order, parts, strict=True)]
        used = [torch.zeros(size, dtype=torch.long) for size in quantizer.sizes]
        sums = {"loss": 0.0, "dino_loss": 0.0, "commitment": 0.0, "spread": 0.0, "restarted": 0}
        self.student.train()
        for number, batch in enumerate(self.pixels.batches(mine)):
            torch.manual_seed(self.seed + _EPOCH_SEEDS * (self.epoch + 1) + number + 1)
            self._schedule(self.epoch * self.n_batches + number)
            losses, codes = self._step(batch, parts[number])
            for name, value in losses.items():
                sums[name] += value
            if codes is not None:
                for count, column in zip(used, codes.cpu().T, strict=True):
                    count += torch.bincount(column, minlength=len(count))
            bar.update()
        totals = processes.sum_of(torch.tensor(list(sums.values()), dtype=torch.double)).tolist()
        row: dict[str, Any] = {k: v / self.n_batches for k, v in zip(sums, totals, strict=True)}
        row["restarted"] = int(totals[-1])
        if quantizer.ready:
            row |= {"k_means": fitted, "perplexity": perplexities(used)}
        return row

    def _unfit(self) -> bool:
        """Whether the codebooks need k-means on the whole catalogue: they are not initialized, or
        the last epoch used the codewords of a level unevenly. Features can drift away from their
        codebooks, for example while the batch norm of a pretrained network adapts to the crops.
        Restarting single codewords does not help then: one image's vector attracts no others.
        """
        quantizer = self.student.quantizer
        if not quantizer.ready:
            return True
        last = self.history["epochs"][-1]["perplexity"]
        return any(p < _EVEN * size for p, size in zip(last, quantizer.sizes, strict=True))

    def _step(self, batch: Tensor, part: Part) -> tuple[dict[str, float], Tensor | None]:
        """Update student, teacher and codebooks with the images of this part. Returns the part's
        contributions to the losses, and the codes of the global crops of the whole batch."""
        settings, student = self.settings, self.student
        globals_, locals_ = multi_crop(batch.to(self.device), settings, part.draw)
        joint_batch.draw_apart()
        on_gpu = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            with torch.no_grad():
                globals_ = self.frozen(globals_)
                locals_ = None if locals_ is None else self.frozen(locals_)
                teacher_logits = self.teacher(globals_)[0]
            logits, features, quantized = self.joint_student(globals_, locals_)
        target = self.targets(part.joint(teacher_logits)).view(2, part.n, -1)[:, part.rows]
        views = logits.view(-1, len(batch), logits.size(1))  # (V, B, out_dim)
        dino = dino_loss(views, target, settings.student_temperature)
        commitment = quantized.commitment if quantized else logits.new_zeros(())
        whole = part.joint(features[: len(globals_)])
        # Separately for the two views: they must not push the two views of an image apart.
        spread = (koleo(whole[: part.n]) + koleo(whole[part.n :])) / 2
        # The means are over this part and count by its share; the spread is that of the batch.
        own = part.share * (dino + settings.commitment * commitment)
        self._check(loss := own + settings.spread * spread)
        self.optimizer.zero_grad(set_to_none=True)
        (processes.count() * loss).backward()  # the gradient is then averaged over the processes
        if self.epoch < settings.freeze_last_layer:
            student.head.prototypes.grad = None
        nn.utils.clip_grad_norm_(student.parameters(), settings.clip_norm)
        self.optimizer.step()
        ema_update(self.teacher, student, self.momentum)
        losses = {"dino_loss": dino, "commitment": commitment, "spread": spread}
        parts = {name: part.share * value.item() for name, value in losses.items()}
        parts["loss"] = own.item() + settings.spread * parts["spread"]
        if quantized is None:
            return parts, None
        # Local crops are quantized but do not update the codebooks, which are for whole images.
        codes = part.joint(quantized.codes[: len(globals_)])
        if processes.is_first():
            parts["restarted"] = student.quantizer.update(whole.detach(), codes)
        processes.copy_first(student.quantizer.state())
        return parts, codes

    def _schedule(self, step: int) -> None:
        settings, total = self.settings, self.settings.epochs * self.n_batches
        warmup = round(settings.warmup_epochs * self.n_batches)
        rate = cosine(step, total, settings.learning_rate, settings.learning_rate / 100, warmup)
        decay = cosine(step, total, *settings.weight_decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            group["weight_decay"] = decay if group["decays"] else 0.0
        self.momentum = cosine(step, total, settings.teacher_momentum, 1.0)

    def _check(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise UserError(
                f"RQ-DINO's loss is {loss.item()} in epoch {self.epoch + 1}: lower "
                f"image_learning_rate ({self.settings.learning_rate})."
            )

    # --- state ------------------------------------------------------------------------------------

    def _record(self, row: dict[str, Any], seconds: float, writer: Any) -> None:
        self.epoch += 1
        self.history["seconds"] += seconds
        n_seen = self.epoch * len(self.pixels)
        self.history["images_per_second"] = n_seen / self.history["seconds"]
        self.history["epochs"].append(row)
        if writer is None:
            return
        for name, value in row.items():
            per_level = name == "perplexity"
            values = {f"/{i}": v for i, v in enumerate(value)} if per_level else {"": value}
            for suffix, number in values.items():
                writer.add_scalar(f"RQ-DINO/{name}{suffix}", number, self.epoch)

    def _save(self) -> None:
        state = {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "targets": self.targets.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "history": checkpoint.to_plain(self.history),
        }
        checkpoint.save(self.partial, state, "cache_dir")

    def _fault(self, state: dict[str, Any]) -> str:
        """Why the state in a file does not fit this training; '' if it does."""
        for name in ("student", "teacher", "targets"):
            if wrong := matching.unlike(state[name], getattr(self, name).state_dict(), name):
                return wrong
        epoch, done = state["epoch"], state["history"]["epochs"]
        if epoch != len(done) or not 1 <= epoch <= self.settings.epochs:
            return f"its epoch is {epoch} of {self.settings.epochs}, with {len(done)} recorded"
        n_levels = len(self.student.quantizer.sizes)
        fitted = bool(state["student"]["quantizer.started"])
        if fitted and len(done[-1].get("perplexity") or ()) != n_levels:
            return "its last epoch has no perplexity for each level"
        return matching.unlike_optimizer(state["optimizer"], self.optimizer)

    def _resume(self) -> None:
        rule = schema.INTERRUPTED_RQ_DINO
        state = processes.once(
            lambda: checkpoint.load_partial(self.partial, "cpu", rule, self._fault)
        )
        if state is None:
            return
        for name in ("student", "teacher", "targets"):
            getattr(self, name).load_state_dict(state[name])
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
        self.epoch, self.history = state["epoch"], state["history"]
        getLogger().info(f"RQ-DINO: resuming after epoch {self.epoch}, from {self.partial}")


def _writer(log_dir: Path | None) -> Any:
    if log_dir is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return files.Told(lambda: SummaryWriter(str(log_dir)), log_dir, "log_dir")
