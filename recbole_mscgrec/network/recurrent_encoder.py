"""A recurrent encoder of histories instead of attention (`encoder: gru`); not in the paper."""

from __future__ import annotations

import torch
from torch import nn

Tensor = torch.Tensor


class RecurrentEncoder(nn.Module):
    """GRU layers over item tokens. A linear map of their output is added to the tokens.

    It is causal, so every position of a window can have a target, as with item-causal attention.
    The recurrence reads the items in order, so no position bias is needed.
    """

    def __init__(self, size: int, n_layers: int, dropout: nn.Module, dropout_prob: float) -> None:
        super().__init__()
        between = dropout_prob if n_layers > 1 else 0.0
        self.layers = nn.GRU(size, size, n_layers, batch_first=True, dropout=between)
        self.out = nn.Linear(size, size, bias=False)
        self.dropout = dropout

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); position t depends on the tokens up to t."""
        return tokens + self.out(self.layers(self.dropout(tokens))[0])
