"""The sequence model: histories of item codes in, exact log-probabilities or beams of items out.

Knows codes and the prefix tree, not RecBole. Symbols as in mscgrec.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, embedding

from recbole_mscgrec.beam_search import Beams, Step, beam_search
from recbole_mscgrec.codes import MISSING, CodeTable
from recbole_mscgrec.layers import (
    DecoderBlock,
    DistanceBias,
    Dropout,
    EncoderBlock,
    Norm,
    Places,
    Tokens,
)
from recbole_mscgrec.prefix_tree import PrefixTree
from recbole_mscgrec.restriction import Restriction

Tensor = torch.Tensor


class Sizes(NamedTuple):
    """Hyper-parameters of the network; their meaning stands in properties/model/MSCGRec.yaml."""

    hidden_size: int
    inner_size: int
    n_heads: int
    n_encoder_layers: int
    n_decoder_layers: int
    dropout_prob: float
    n_distance_buckets: int
    max_distance: int
    modality_mask_prob: float


class CodeNetwork(nn.Module):
    """Encoder over items, decoder over the levels of the next item's code, and the codes.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(self, table: CodeTable, sizes: Sizes) -> None:
        super().__init__()
        size, n_heads = sizes.hidden_size, sizes.n_heads
        if size % n_heads:
            raise ValueError(f"hidden_size ({size}) must be a multiple of n_heads ({n_heads}).")
        self.modality_mask_prob = sizes.modality_mask_prob
        self.set_codes(table)
        self.code_embedding = nn.Embedding(self.n_code_rows, size, padding_idx=0)
        self.target_embedding = nn.Embedding(sum(self.level_sizes), size)
        self.start = nn.Parameter(torch.zeros(size))
        self.start_from_history = nn.Linear(size, size, bias=False)
        self.level_embedding = nn.Embedding(self.n_levels, size)
        buckets = (sizes.n_distance_buckets, sizes.max_distance, n_heads)
        self.encoder_bias, self.decoder_bias = DistanceBias(*buckets), DistanceBias(*buckets)
        block = (size, sizes.inner_size, n_heads, sizes.dropout_prob)
        self.encoder = nn.ModuleList(EncoderBlock(*block) for _ in range(sizes.n_encoder_layers))
        self.decoder = nn.ModuleList(DecoderBlock(*block) for _ in range(sizes.n_decoder_layers))
        self.encoder_norm, self.decoder_norm = Norm(size), Norm(size)
        self.dropout = Dropout(sizes.dropout_prob)
        self._init_weights()

    # --- codes as tensors -------------------------------------------------------------------------

    def set_codes(self, table: CodeTable) -> None:
        """Lay the table out for embedding: per item the rows of `code_embedding` that it sums.

        Row 0 is zero. Every modality has one row for 'masked or missing' and one per codeword; an
        item without the modality uses the mask row once and row 0 for the remaining levels.
        """
        index, mask_rows, row = [], [], 1
        self.n_code_rows = 1 + sum(1 + sum(table.sizes[name]) for name in table.codes)
        kind = torch.int16 if self.n_code_rows < 2**15 else torch.int32
        for name, codes in table.codes.items():
            offsets = torch.tensor([0, *table.sizes[name][:-1]]).cumsum(0) + row + 1
            absent = torch.zeros(1, codes.size(1), dtype=kind)
            absent[0, 0] = row
            present = (codes + offsets).to(kind)
            index.append(torch.where(codes[:, :1] == MISSING, absent, present))
            mask_rows.append(row)
            row += 1 + sum(table.sizes[name])
        item_index = torch.cat(index, dim=1)
        item_index[0] = 0
        self.modalities = table.modalities
        self.columns = [codes.size(1) for codes in table.codes.values()]
        self.level_sizes = table.sizes[table.target]
        self.n_levels = len(self.level_sizes)
        offsets = torch.tensor([0, *self.level_sizes[:-1]]).cumsum(0)
        # Derived from the code table, which a checkpoint holds as it is.
        for name, tensor in (
            ("item_index", item_index),  # (N, sum of L_m)
            ("mask_rows", torch.tensor(mask_rows)),  # (M,)
            ("level_offset", offsets),  # (L,)
        ):
            self.register_buffer(name, tensor, persistent=False)
        self.tree = PrefixTree(table.target_codes, torch.arange(1, table.n_items))

    def index_without(self, modality: str) -> Tensor:
        """`item_index` (N, sum of L_m) of a catalogue in which no item has the modality.

        Raises:
            ValueError: the table does not have it, or nothing else.
        """
        if modality not in self.modalities or len(self.modalities) == 1:
            raise ValueError(
                f"eval_drop_modality ({modality}) must be one of several modalities that the model "
                f"has; it has {self.modalities}."
            )
        m = self.modalities.index(modality)
        first = sum(self.columns[:m])
        index = self.item_index.clone()
        index[1:, first : first + self.columns[m]] = 0
        index[1:, first] = self.mask_rows[m].to(index.dtype)
        return index

    def _apply(self, fn: Any, recurse: bool = True) -> CodeNetwork:
        """`Module.to`, which here moves the prefix tree as well."""
        super()._apply(fn, recurse)
        self.tree.to(self.item_index.device)
        return self

    def _init_weights(self) -> None:
        """Item vectors of unit size, and sublayers that together add about as much to them: started
        smaller or larger, the codes drown in what the layers add and training is slower."""
        for module in self.modules():
            if isinstance(module, (nn.Embedding, nn.Linear)):
                nn.init.normal_(module.weight, std=module.weight.size(1) ** -0.5)
        nn.init.normal_(self.code_embedding.weight, std=sum(self.columns) ** -0.5)
        blocks = [*self.encoder, *self.decoder]
        n_sublayers = sum(len(block.output_layers()) for block in blocks)
        with torch.no_grad():
            self.code_embedding.weight[0].zero_()
            for layer in [layer for block in blocks for layer in block.output_layers()]:
                layer.weight.mul_(n_sublayers**-0.5)

    # --- encoder ----------------------------------------------------------------------------------

    def encode(self, item_seq: Tensor) -> Tensor:
        """History (B, T) of item ids -> (B, T, D); position t sees the items up to t."""
        x = self.dropout(self.embed_items(item_seq))
        position = torch.arange(item_seq.size(1), device=item_seq.device)
        distance = (position.unsqueeze(1) - position).unsqueeze(0)  # (1, T, T), negative = future
        bias = self.encoder_bias(distance)
        for block in self.encoder:
            x = block(x, bias)
        return self.encoder_norm(x)

    def embed_items(self, item_seq: Tensor) -> Tensor:
        """Sum of the code embeddings of all modalities: (B, T) -> (B, T, D).

        Each item of the batch is summed once per modality and then looked up, which costs less than
        summing its codes at every place where it stands.
        """
        items, place = item_seq.unique(return_inverse=True)  # (U,), (B, T)
        rows = [
            embedding(index[items].long(), self.code_embedding.weight, padding_idx=0).sum(
                1
            )  # (U, D)
            for index in self.item_index.split(self.columns, dim=1)
        ]
        table = torch.stack(rows, dim=1).flatten(0, 1)  # (U*M, D)
        modality = torch.arange(len(self.columns), device=item_seq.device)
        index = place.unsqueeze(-1) * len(self.columns) + modality  # (B, T, M)
        if self.training and self.modality_mask_prob > 0:
            table = torch.cat([table, self.code_embedding.weight[self.mask_rows]])
            index = torch.where(
                self._random_mask(item_seq), len(items) * len(modality) + modality, index
            )
        return embedding(index, table).sum(-2)

    def _random_mask(self, item_seq: Tensor) -> Tensor:
        """Which modalities (B, T, M) to mask: each at random, never all of an item's."""
        draw = torch.rand(*item_seq.shape, len(self.columns), device=item_seq.device)
        masked = draw < self.modality_mask_prob
        # The largest draw among the modalities that an item has stays; where anything stays by
        # itself, that is one of those anyway.
        first = torch.tensor([0, *self.columns[:-1]], device=item_seq.device).cumsum(0)
        lacking = self.item_index[item_seq][..., first] == self.mask_rows
        kept = draw.masked_fill(lacking, -1).argmax(dim=-1, keepdim=True)
        masked.scatter_(-1, kept, False)
        return masked & (item_seq != 0).unsqueeze(-1)

    # --- decoder ----------------------------------------------------------------------------------

    def decode(
        self, encoded: Tensor, limit: Tensor, codes: list[Tensor], place: Tensor, counts: list[int]
    ) -> Tensor:
        """Hidden states of the target codes under teacher forcing.

        Args:
            encoded: (B, T, D) history.
            limit: (1 or B, Q) last history position that each of Q targets per row may see.
            codes: per level the codes (n,) of the targets.
            place: (n,) their places in the flattened (B, Q).
            counts: levels to compute: level l for the first counts[l] targets.

        Returns:
            (sum of counts, D), level by level.
        """
        tokens = Tokens(counts, place, (encoded.size(0), limit.size(1)))
        position = torch.arange(encoded.size(1), device=encoded.device)
        bias = self.decoder_bias(limit.unsqueeze(-1) - position)  # (., H, Q, T)
        start = self._start(encoded, limit).index_select(0, place[: counts[0]])
        given = zip(
            codes, counts[1:], self.level_offset, strict=False
        )  # the codes before each level
        later = torch.cat([place[:0], *(code[:n] + offset for code, n, offset in given)])
        x = torch.cat([start, self.target_embedding(later).to(start.dtype)])
        x = x + torch.cat(
            [w.expand(n, -1) for w, n in zip(self.level_embedding.weight, counts, strict=False)]
        )
        x = self.dropout(x)
        for block in self.decoder:
            x = block(x, tokens, encoded, bias)
        return self.decoder_norm(x)

    def _start(self, encoded: Tensor, limit: Tensor) -> Tensor:
        """First decoder token of every target, made from the last item it may see: (B*Q, D)."""
        index = limit.expand(encoded.size(0), -1).unsqueeze(-1).expand(-1, -1, encoded.size(-1))
        return self.start + self.start_from_history(encoded.gather(1, index).flatten(0, 1))

    def level_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Scores (..., K) of all codewords of a level; weights tied to the decoder's input.

        Always in the weights' precision: bfloat16 would make one score of many near ones.
        """
        offset = sum(self.level_sizes[:level])
        weight = self.target_embedding.weight[offset : offset + self.level_sizes[level]]
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.to(weight.dtype) @ weight.T

    def item_log_probs(
        self, encoded: Tensor, limit: Tensor, items: Tensor, place: Tensor
    ) -> Tensor:
        """Exact log p(item | history) of n items, (n,): the sum over levels of the constrained
        softmax, which runs over the children of the item's prefix (paper: constrained sequence
        learning). A level with one child adds nothing; behind the last choice nothing is computed.

        Arguments as in `decode`.
        """
        path = torch.stack(self.tree.path(items))  # (L+1, n)
        n_children = torch.stack(
            [self.tree.n_children(level, path[level]) for level in range(self.n_levels)]
        )
        depth = (
            (n_children > 1) * torch.arange(1, self.n_levels + 1, device=path.device)[:, None]
        ).amax(0)
        order = depth.argsort(descending=True)  # (n,) most levels first
        counts = [int((depth > level).sum()) for level in range(self.n_levels)]
        counts = [n for n in counts if n > 0]
        log_probs = torch.zeros(len(items), device=encoded.device)
        if not counts:  # a catalogue of one item
            return log_probs
        path, n_children = path[:, order], n_children[:, order]
        codes = [code[node].long() for code, node in zip(self.tree.code, path[1:], strict=True)]
        hidden = self.decode(encoded, limit, codes, place[order], counts)
        for level, h in enumerate(hidden.split(counts)):
            n = counts[level]
            children = self.tree.children(level, path[level, :n], int(n_children[level, :n].max()))
            logits = self.level_logits(level, h).gather(1, children.codes).float()
            logits = logits.masked_fill(~children.valid, -torch.inf)
            slot = (path[level + 1, :n] - children.nodes[:, 0]).long()
            log_probs = log_probs.index_add(
                0, order[:n], -cross_entropy(logits, slot, reduction="none")
            )
        return log_probs

    def beams(
        self,
        encoded: Tensor,
        limit: Tensor,
        beam_size: int,
        restriction: Restriction | None = None,
    ) -> Beams:
        """The best items per row by constrained beam search with cached decoder state.

        encoded (B, T, D); limit (B, 1) the last position that counts. Returns (B, W).
        """
        step = self.decoder_step(encoded, limit)
        return beam_search(step, self.tree, len(encoded), beam_size, restriction)

    def decoder_step(self, encoded: Tensor, limit: Tensor) -> Step:
        """The step function of a beam search over one batch; it keeps the decoder's state."""
        position = torch.arange(encoded.size(1), device=encoded.device)
        bias = self.decoder_bias(limit.unsqueeze(-1) - position)  # (B, H, 1, T)
        memories = [block.memory(encoded) for block in self.decoder]
        past: list[list[Tensor]] = [[] for _ in self.decoder]
        ancestors: list[Tensor] = []  # per level so far (P,): which of its tokens a beam comes from

        def step(level: int, row: Tensor, codes: Tensor | None, parents: Tensor | None) -> Tensor:
            if codes is None or parents is None:
                x = self._start(encoded, limit)  # one token per row
            else:
                x = self.target_embedding(codes + self.level_offset[level - 1])
                ancestors[:] = [line[parents] for line in ancestors[:-1]] + [parents]
            x = x + self.level_embedding.weight[level]
            places = Places(row, len(encoded))
            for block, kept, memory in zip(self.decoder, past, memories, strict=True):
                x = block.step(x, kept, ancestors, places, memory, bias)
            ancestors.append(torch.arange(len(x), device=x.device))
            return self.level_logits(level, self.decoder_norm(x))

        return step
