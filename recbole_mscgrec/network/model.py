"""The sequence model: from histories of item codes to exact log-probabilities or beams of items.

Symbols as in mscgrec.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from recbole_mscgrec.network.beam_search import Beams, Step, beam_search
from recbole_mscgrec.network.block_attention import Windows
from recbole_mscgrec.network.blocks import DecoderBlock, Dropout, EncoderBlock, Norm, check_heads
from recbole_mscgrec.network.constrained_loss import TargetPaths
from recbole_mscgrec.network.history import CODE, ITEM, Encoded, HistoryTokens
from recbole_mscgrec.network.init import initialize
from recbole_mscgrec.network.item_swap import Neighbours
from recbole_mscgrec.network.node_embedding import NodeVectors
from recbole_mscgrec.network.relative_bias import (
    DistanceBias,
    HistoryBias,
    NoBias,
    hide,
)
from recbole_mscgrec.network.unpad import LevelSlots, Slots
from recbole_mscgrec.semantic_ids.code_table import CodeTable
from recbole_mscgrec.semantic_ids.item_filter import Restriction
from recbole_mscgrec.semantic_ids.item_prior import ItemPrior
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor
ITEM_AWARE, T5 = "item_aware", "t5"  # decoder with the last item and distances, or without both


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Hyper-parameters of the network; properties/model/MSCGRec.yaml explains them."""

    hidden_size: int
    inner_size: int
    n_heads: int
    n_encoder_layers: int
    n_decoder_layers: int
    dropout_prob: float
    n_distance_buckets: int
    max_distance: int
    modality_mask_prob: float
    conv_kernel_size: int = 0
    encoder_attention: str = "item_causal"
    history_tokens: str = ITEM
    code_bias: bool = False
    decoder: str = ITEM_AWARE
    neighbour_prob: float = 0.0
    learned_items: int = 0


class CodeNetwork(nn.Module):
    """Encoder over history items, decoder over the code levels of the next item, code table.

    Args:
        table: the codes.
        sizes: hyper-parameters.
        vectors: modality -> (N, D_m), the vectors that were quantized. They become part of an
            item's token and initialize the codewords.
        learned: ids (n,) of the items with a learned vector; None: all, if `learned_items` > 0.
        initial: initialize the weights; False if they are loaded afterwards.

    Raises:
        UserError: `hidden_size` is not a multiple of `n_heads`.
    """

    level_offset: Tensor

    def __init__(
        self,
        table: CodeTable,
        sizes: Sizes,
        vectors: dict[str, Tensor] | None = None,
        learned: Tensor | None = None,
        initial: bool = True,
    ) -> None:
        super().__init__()
        size = sizes.hidden_size
        self.bidirectional = sizes.encoder_attention == "bidirectional"
        self.level_sizes = table.sizes[table.target]
        self.n_levels = len(self.level_sizes)
        self.tree = PrefixTree(table.target_codes, torch.arange(1, table.n_items))
        offsets = torch.tensor([0, *self.level_sizes[:-1]]).cumsum(0)
        self.register_buffer("level_offset", offsets, persistent=False)  # (L,)
        code_positions = sizes.history_tokens == CODE and not sizes.code_bias
        tokens = (sizes.history_tokens, code_positions, sizes.modality_mask_prob)
        has_learned = sizes.learned_items > 0
        self.history = HistoryTokens(table, size, *tokens, vectors, has_learned, learned)
        self.per_item = self.history.per_item  # G
        self.neighbours = Neighbours(table, sizes.neighbour_prob) if sizes.neighbour_prob else None
        self.target_embedding = nn.Embedding(sum(self.level_sizes), size)
        self.node_vectors = NodeVectors(self.tree, size, learned) if has_learned else None
        self.start = nn.Parameter(torch.zeros(size))
        item_aware = sizes.decoder == ITEM_AWARE
        self.start_from_history = nn.Linear(size, size, bias=False) if item_aware else None
        self.level_embedding = nn.Embedding(self.n_levels, size)
        self._add_blocks(sizes)
        if initial:
            initialize(self, table.target_codes)

    def _add_blocks(self, sizes: Sizes) -> None:
        """Add the blocks of encoder and decoder, with biases and norms."""
        size, n_heads = sizes.hidden_size, sizes.n_heads
        check_heads(size, n_heads)
        buckets = (sizes.n_distance_buckets, sizes.max_distance, n_heads)
        block = (size, sizes.inner_size, n_heads, sizes.dropout_prob)
        self.dropout = Dropout(sizes.dropout_prob)
        item = DistanceBias(*buckets, self.bidirectional)
        self.encoder_bias = HistoryBias(item, n_heads, self.history.per_item, sizes.code_bias)
        item_aware = sizes.decoder == ITEM_AWARE
        self.decoder_bias = DistanceBias(*buckets) if item_aware else NoBias()
        layers, kernel_size = range(sizes.n_encoder_layers), sizes.conv_kernel_size
        self.encoder = nn.ModuleList(EncoderBlock(*block, kernel_size) for _ in layers)
        self.decoder = nn.ModuleList(DecoderBlock(*block) for _ in range(sizes.n_decoder_layers))
        self.encoder_norm, self.decoder_norm = Norm(size), Norm(size)

    def _apply(self, fn: Any, recurse: bool = True) -> CodeNetwork:
        """`Module.to` and the like, which also move the prefix tree."""
        super()._apply(fn, recurse)
        self.tree.to(self.level_offset.device)
        return self

    # --- encoder ----------------------------------------------------------------------------------

    def encode(self, item_seq: Tensor) -> Encoded:
        """Encode histories (B, T) of item ids, left-aligned and padded with 0. The tokens of
        position t see the items up to t, or all items if the encoder is bidirectional."""
        if self.training and self.neighbours is not None:
            item_seq = self.neighbours(item_seq)
        x, keep = self.history(item_seq)
        windows = None
        if torch.is_grad_enabled() and not self.bidirectional:
            windows = Windows.where_faster(item_seq, self.per_item)
        real = item_seq != 0 if keep is None else keep
        if self.bidirectional:
            keep = real
        slots, bias = Slots.where(real), self.encoder_bias(item_seq, keep)
        x = self.dropout(slots.pack(x))
        for block in self.encoder:
            x = block(x, slots, bias, windows)
        return Encoded(slots.spread(self.encoder_norm(x)), keep, windows)

    # --- decoder ----------------------------------------------------------------------------------

    def decode(
        self, encoded: Encoded, limit: Tensor, codes: list[Tensor], place: Tensor, counts: list[int]
    ) -> Tensor:
        """Hidden states of the target codes under teacher forcing.

        Args:
            encoded: the histories.
            limit: (1 or B, Q) last history position that each of the Q targets of a row may see.
            codes: for each level, the codes (n,) of the targets.
            place: (n,) positions of the targets in the flattened (B, Q).
            counts: number of targets per level: level l is computed for the first counts[l]
                targets.

        Returns:
            (sum of counts, D), level by level.
        """
        slots = LevelSlots(counts, place, (encoded.states.size(0), limit.size(1)))
        bias = self._cross_bias(encoded, limit)
        windows = encoded.windows
        if windows is not None:  # valid only if query t of every row sees the items up to t
            items = torch.arange(encoded.states.size(1) // self.per_item)
            windows = windows if torch.equal(limit, items[None]) else None
        start = self._start(encoded, limit, place[: counts[0]])
        before = zip(codes, counts[1:], self.level_offset, strict=False)  # input of later levels
        later = torch.cat([place[:0], *(code[:n] + offset for code, n, offset in before)])
        x = torch.cat([start, self.target_embedding(later).to(start.dtype)])
        levels = zip(self.level_embedding.weight, counts, strict=False)
        x = x + torch.cat([weight.expand(n, -1) for weight, n in levels])
        x = self.dropout(x)
        for block in self.decoder:
            x = block(x, slots, encoded.states, bias, windows)
        return self.decoder_norm(x)

    def _cross_bias(self, encoded: Encoded, limit: Tensor) -> Tensor:
        """Bias (1 or B, 1 or H, Q, T * G) from targets to the tokens of the items they may see."""
        position = torch.arange(encoded.states.size(1), device=limit.device)
        distance = limit.unsqueeze(-1) - position // self.per_item
        return hide(self.decoder_bias(distance), encoded.keep)

    def _start(self, encoded: Encoded, limit: Tensor, place: Tensor) -> Tensor:
        """First decoder token (n, D) of the targets at positions `place` (n,) of the flattened
        (B, Q). It is learned; the item-aware decoder adds a linear map of the last item that the
        target may see (the mean of its tokens)."""
        states, size = encoded.states, encoded.states.size(-1)
        if self.start_from_history is None:
            return self.start.expand(place.size(0), size)
        if self.per_item > 1 and encoded.keep is not None:
            keep = encoded.keep.unflatten(1, (-1, self.per_item)).unsqueeze(-1)
            tokens = states.unflatten(1, (-1, self.per_item)) * keep
            states = tokens.sum(2) / keep.sum(2).clamp(min=1)
        row, last = place // limit.size(1), limit.expand(states.size(0), -1).flatten()[place]
        last_items = states.flatten(0, 1).index_select(0, row * states.size(1) + last)
        return self.start + self.start_from_history(last_items)

    def level_logits(self, level: int, hidden: Tensor, nodes: Tensor) -> Tensor:
        """Scores (P, K) of all codewords of a level after nodes (P,), from hidden states (P, D).
        The output weights are the codeword embeddings.

        Always in the precision of the weights: in bfloat16, close scores would become equal.
        """
        offset = sum(self.level_sizes[:level])
        weight = self.target_embedding.weight[offset : offset + self.level_sizes[level]]
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(weight.dtype)
            logits = hidden @ weight.T
            if self.node_vectors is None:
                return logits
            return self.node_vectors.add_to(logits, level, hidden, nodes)

    def level_log_probs(
        self,
        encoded: Encoded,
        limit: Tensor,
        items: Tensor,
        place: Tensor,
        constrained: bool = True,
        prior: ItemPrior | None = None,
    ) -> Tensor:
        """The log-probability of each level for n items, (L, n). Their sum is the exact
        log p(item | history).

        Args:
            items: (n,) item ids.
            constrained: softmax over the children of the item's prefix; if False, over all
                codewords of a level.
            prior: combined with the scores, one row per history; needs `constrained`.

        For the other arguments see `decode`."""
        targets = TargetPaths(self.tree, items, constrained)
        log_probs = [torch.zeros(len(items), device=items.device) for _ in range(self.n_levels)]
        if not targets.counts:  # a catalogue with a single item
            return torch.stack(log_probs)
        place = place[targets.order]
        hidden = self.decode(encoded, limit, targets.codes, place, targets.counts)
        for level, h in enumerate(hidden.split(targets.counts)):
            logits = self.level_logits(level, h, targets.prefixes(level)).float()
            of_targets = prior and prior.select(place[: len(h)] // limit.size(1))
            added = targets.log_probs(level, logits, of_targets)
            log_probs[level] = log_probs[level].index_put((targets.order[: len(h)],), added)
        return torch.stack(log_probs)

    def beams(
        self,
        encoded: Encoded,
        limit: Tensor,
        beam_size: int,
        restriction: Restriction | None = None,
        constrained: bool = True,
        prior: ItemPrior | None = None,
    ) -> Beams:
        """The best items per row by constrained beam search with cached decoder state: (B, W).

        limit (B, 1) is the last history position to use; for `constrained` and `prior` see
        `level_log_probs`.
        """
        step = self.decoder_step(encoded, limit)
        return beam_search(
            step, self.tree, len(encoded), beam_size, restriction, constrained, prior
        )

    def decoder_step(self, encoded: Encoded, limit: Tensor) -> Step:
        """The step function of beam search for one batch; it keeps the state of the decoder."""
        bias = self._cross_bias(encoded, limit)
        decoder = list(cast(Iterable[DecoderBlock], self.decoder))
        memories = [block.memory(encoded.states) for block in decoder]
        past: list[list[Tensor]] = [[] for _ in decoder]
        ancestors: list[Tensor] = []  # (P,) per earlier level: the token that a beam comes from

        def step(
            level: int, row: Tensor, nodes: Tensor, codes: Tensor | None, parents: Tensor | None
        ) -> Tensor:
            """Logits (P, K) of the next level (see `beam_search.Step`)."""
            if codes is None or parents is None:
                x = self._start(encoded, limit, row)  # one token per row
            else:
                x = self.target_embedding(codes + self.level_offset[level - 1])
                ancestors[:] = [line[parents] for line in ancestors[:-1]] + [parents]
            x = x + self.level_embedding.weight[level]
            slots = Slots.by_row(row, len(encoded))
            for block, kept, memory in zip(decoder, past, memories, strict=True):
                x = block.step(x, kept, ancestors, slots, memory, bias)
            ancestors.append(torch.arange(len(x), device=x.device))
            return self.level_logits(level, self.decoder_norm(x), nodes)

        return step
