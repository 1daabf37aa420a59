"""The encoder and the decoder of a trained network as programs of torch.export.

A program holds its weights and tables, so it needs torch and nothing of this package:

    encoder     items (B, T) -> states (B, S, D), used (B, S)
    decoder_l   states, used, last (B,), codes (B, W, l) -> log-probabilities (B, W, K), for each
                level l from 0

B histories of T items; S = T * G tokens with G per item (1 with `history_tokens: item`); W beams
with l codes chosen so far; K codewords of level l. torch.export takes no shapes that depend on
values, so tokens are not packed, and the modules run on whole grids.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.export import Dim

from recbole_mscgrec.network.history import Encoded
from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.network.unpad import Slots

Tensor = torch.Tensor


def programs_of(network: CodeNetwork, max_history: int, constrained: bool) -> dict[str, bytes]:
    """The programs of a network in evaluation: name -> content of a .pt2 file.

    B, T and W are free, except that T is fixed to `max_history` if that is below 3.
    """
    fixed = max_history < 3
    items = torch.ones(3, max_history if fixed else 3, dtype=torch.long)
    batch, beams, tokens = Dim("batch"), Dim("beams"), Dim("tokens")
    width = {} if fixed else {1: Dim("length", max=max_history)}
    made, encoder = {}, EncoderProgram(network)
    with torch.no_grad(), _quiet():
        made["encoder"] = _saved(encoder, (items,), ({0: batch, **width},))
        states = torch.zeros(3, 4 * network.per_item, network.start.numel())
        used = torch.ones(states.shape[:2], dtype=torch.bool)
        for level in range(network.n_levels):
            codes = torch.zeros(3, 2, level, dtype=torch.long)
            made[f"decoder_{level}"] = _saved(
                DecoderProgram(network, level, constrained),
                (states, used, torch.zeros(3, dtype=torch.long), codes),
                ({0: batch, 1: tokens}, {0: batch, 1: tokens}, {0: batch}, {0: batch, 1: beams}),
            )
    return made


class EncoderProgram(nn.Module):
    """Item ids -> encoded histories."""

    def __init__(self, network: CodeNetwork) -> None:
        super().__init__()
        self.history, self.bias = network.history, network.encoder_bias
        self.blocks, self.norm = network.encoder, network.encoder_norm
        self.hides_keys = network.bidirectional or network.per_item > 1

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Item ids (B, T), oldest first, padded with 0 at the end -> states (B, S, D), and bool
        (B, S): which of them are used."""
        x, used = self.history(items)
        used = items != 0 if used is None else used
        # If no keys are hidden, attention is causal and never reads the padding at the end.
        bias = self.bias(items, used if self.hides_keys else None)
        slots = Slots(None, x.size(0), x.size(1), used)
        x = x.flatten(0, 1)
        for block in self.blocks:
            x = block(x, slots, bias)
        states = slots.spread(self.norm(x))
        return states.masked_fill(~used.unsqueeze(-1), 0), used


class DecoderProgram(nn.Module):
    """The distribution over the codewords of a level, given the codes of the levels before it."""

    def __init__(self, network: CodeNetwork, level: int, constrained: bool) -> None:
        super().__init__()
        self.network, self.level = _decoder_of(network, level), level
        self.constrained = constrained

    def forward(self, states: Tensor, used: Tensor, last: Tensor, codes: Tensor) -> Tensor:
        """The result of the encoder, the position (B,) of the last item of each history, and the
        codes (B, W, l) chosen so far -> log-probabilities (B, W, K); -inf for codewords that lead
        to no item."""
        network, tree, level = self.network, self.network.tree, self.level
        n_rows, n_beams = codes.size(0), codes.size(1)
        chosen, n = [codes[..., i].flatten() for i in range(level)], n_rows * n_beams
        encoded = Encoded(
            states, used
        )  # all tokens up to `last`: hiding the others changes nothing
        limit, place = last.unsqueeze(1).expand(-1, n_beams), torch.arange(n, device=codes.device)
        hidden = network.decode(encoded, limit, chosen, place, [n] * (level + 1))[n * level :]
        nodes = torch.zeros_like(place, dtype=torch.int32)
        for depth, column in enumerate(chosen):
            nodes = tree.child(depth, nodes, column)
        logits = network.level_logits(level, hidden, nodes).float()
        children = tree.children(level, nodes)
        has_child = torch.zeros_like(logits).scatter_add(1, children.codes, children.valid.float())
        if not self.constrained:
            logits = logits.log_softmax(dim=-1)
        log_probs = logits.masked_fill(has_child == 0, -torch.inf)
        if self.constrained:
            log_probs = log_probs.log_softmax(dim=-1)
        return log_probs.view(n_rows, n_beams, -1)


def _decoder_of(network: CodeNetwork, level: int) -> CodeNetwork:
    """The network with only the modules that decode a level, because a program saves all."""
    unused = ("history", "neighbours", "encoder", "encoder_bias", "encoder_norm")
    made = copy.copy(network)  # the other modules and the tensors are shared
    made._modules = {name: m for name, m in network._modules.items() if name not in unused}
    if network.node_vectors is not None:
        vectors = copy.copy(network.node_vectors)
        levels = enumerate(network.node_vectors.levels, 1)
        kept = nn.ModuleList(one if number == level else nn.Module() for number, one in levels)
        vectors._modules = {"levels": kept}
        made._modules["node_vectors"] = vectors
    return made


def _saved(
    program: nn.Module, example: tuple[Tensor, ...], dynamic: tuple[dict[int, Dim], ...]
) -> bytes:
    """A program in the format of torch.export.save; `dynamic` names the free dimensions."""
    made, buffer = (
        torch.export.export(program.eval(), example, dynamic_shapes=dynamic),
        io.BytesIO(),
    )
    for node in made.graph.nodes:  # stack traces would reveal folders of this machine
        node.meta.pop("stack_trace", None)
    torch.export.save(made, buffer)
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this block torch.export does not warn about its own implementation."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
