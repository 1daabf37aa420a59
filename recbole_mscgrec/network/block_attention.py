"""Attention over tiled windows for training on a CPU, block by block.

Every position of a window is a query that sees the positions up to its own. If all scores were
computed at once, half of them would be masked, those of short windows would be mostly padding, and
those of long windows would not fit into the cache. Here each block of queries is multiplied only
with the keys that it may see, as in flash attention. On a GPU, torch's own kernel is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.amp import custom_bwd, custom_fwd

from recbole_mscgrec.network.unpad import packs

Tensor = torch.Tensor
_SHORT = 64  # tokens of a window; up to this length, blocks are no faster (measured)
_SCORES = 2**18  # scores per block: 1 MB, the fastest size on a core with 1 MB of L2 cache


class Windows(NamedTuple):
    """The number of items in each row of a batch, and the number of key tokens per item."""

    lengths: list[int]  # items per row
    keys_per_item: int = 1

    @classmethod
    def where_faster(cls, item_seq: Tensor, keys_per_item: int = 1) -> Windows | None:
        """The windows of left-aligned item ids (B, T), padded with 0. None where blocks are not
        faster: on a GPU, when compiled (see `packs`), and for windows of up to 64 tokens."""
        if not packs(item_seq) or item_seq.size(1) * keys_per_item <= _SHORT:
            return None
        return cls.of(item_seq, keys_per_item)

    @classmethod
    def of(cls, item_seq: Tensor, keys_per_item: int = 1) -> Windows:
        """The windows of left-aligned item ids (B, T), padded with 0."""
        position = torch.arange(1, item_seq.size(1) + 1, device=item_seq.device)
        return cls(((item_seq != 0) * position).amax(1).tolist(), keys_per_item)


class _Block(NamedTuple):
    rows: slice
    queries: slice
    keys: slice


def attend_windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, windows: Windows) -> Tensor:
    """Attention of q (B, H, T * S, D/H) over k, v (B, H, T * G, D/H): the S queries of item t see
    the keys of the items up to t.

    bias (1 or B, 1 or H, T * S or T, T * G) is added to the scores. If it has T rows of queries,
    the S queries of an item share a row. The result at padding is undefined.
    """
    return _WindowAttention.apply(q, k, v, bias, *windows)


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, lengths: list[int], group: int
    ) -> Tensor:
        """The result of `attend_windows`. The attention weights are kept for the backward pass."""
        out, kept = torch.zeros_like(q, memory_format=torch.contiguous_format), []
        per_item = q.size(2) * group // k.size(2)
        scale = q.size(-1) ** -0.5
        for block in _blocks(lengths, group, per_item, q.size(1)):
            rows, queries, keys = block
            scores = (q[rows, :, queries] * scale) @ k[rows, :, keys].transpose(-1, -2)
            scores += _bias_of(bias, block, q.size(2), per_item)
            weights = torch.softmax(scores, dim=-1)
            out[rows, :, queries] = weights @ v[rows, :, keys]
            kept.append((block, weights))
        ctx.save_for_backward(q, k, v, bias, out, *(w for _, w in kept))
        ctx.blocks, ctx.per_item = [b for b, _ in kept], per_item
        return out

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """Gradients of q, k, v and, if it needs one, of the bias."""
        q, k, v, bias, out, *kept = ctx.saved_tensors
        dq, dk, dv = (torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        dbias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        scale = q.size(-1) ** -0.5
        inner = (grad * out).sum(-1, keepdim=True)  # (B, H, Q, 1)
        for block, weights in zip(ctx.blocks, kept, strict=True):
            rows, queries, keys = block
            g = grad[rows, :, queries]
            dv[rows, :, keys] += weights.transpose(-1, -2) @ g
            scores = g @ v[rows, :, keys].transpose(-1, -2)
            scores -= inner[rows, :, queries]
            scores *= weights
            dq[rows, :, queries] = scores @ k[rows, :, keys]
            dk[rows, :, keys] += scores.transpose(-1, -2) @ q[rows, :, queries]
            if dbias is not None:
                _add_to_bias(dbias, scores, block, q.size(2), ctx.per_item)
        return dq.mul_(scale), dk.mul_(scale), dv, dbias, None, None


def _blocks(lengths: list[int], group: int, per_item: int, n_heads: int) -> Iterator[_Block]:
    """Blocks of about _SCORES scores: all queries of several rows, or those of a few items of one
    row."""
    first = 0
    while first < len(lengths):
        longest, last = lengths[first], first + 1
        whole = n_heads * per_item * group
        while last < len(lengths):
            longer = max(longest, lengths[last])
            if (last + 1 - first) * whole * longer**2 > _SCORES:
                break
            longest, last = longer, last + 1
        step = max(8, _SCORES // max(1, (last - first) * whole * longest))
        for begin in range(0, longest, step):
            end = min(begin + step, longest)
            queries = slice(begin * per_item, end * per_item)
            yield _Block(slice(first, last), queries, slice(0, end * group))
        first = last


def _bias_of(bias: Tensor, block: _Block, n_queries: int, per_item: int) -> Tensor:
    """The bias that is added to the scores of a block."""
    part = bias[_place_in(bias, block, n_queries, per_item)]
    return part if bias.size(2) == n_queries else part.repeat_interleave(per_item, dim=2)


def _add_to_bias(
    dbias: Tensor, scores: Tensor, block: _Block, n_queries: int, per_item: int
) -> None:
    """The gradient of `_bias_of`, added to `dbias` in place; scores with the same bias are
    summed."""
    if dbias.size(0) == 1:
        scores = scores.sum(0, keepdim=True)
    if dbias.size(1) == 1:
        scores = scores.sum(1, keepdim=True)
    if dbias.size(2) != n_queries:
        scores = scores.unflatten(2, (-1, per_item)).sum(3)
    dbias[_place_in(dbias, block, n_queries, per_item)] += scores


def _place_in(bias: Tensor, block: _Block, n_queries: int, per_item: int) -> tuple[slice, ...]:
    """The slices of a bias for a block. Rows, heads, or the queries of an item may share a bias."""
    rows, queries = slice(0, 1) if bias.size(0) == 1 else block.rows, block.queries
    if bias.size(2) != n_queries:
        queries = slice(queries.start // per_item, queries.stop // per_item)
    return rows, slice(None), queries, block.keys
