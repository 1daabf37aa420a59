"""Vectors of texts from a frozen transformers model: an encoder such as BERT, the encoder of an
encoder-decoder such as T5, or a decoder (a large language model)."""

from __future__ import annotations

import difflib
import math
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError, one_line

Tensor = torch.Tensor
MEAN, LAST = "mean", "last"  # pooling: the mean over the tokens, or the last token
_KNOWN = (
    "sentence-transformers/all-MiniLM-L6-v2 sentence-transformers/all-mpnet-base-v2"
    " sentence-transformers/sentence-t5-base intfloat/e5-small-v2 intfloat/e5-base-v2"
    " BAAI/bge-small-en-v1.5 BAAI/bge-base-en-v1.5 bert-base-uncased distilbert-base-uncased"
    " roberta-base"
).split()
_SECONDS_TO_CONNECT = 3


class Encoder(NamedTuple):
    """A tokenizer and the model that reads its tokens, in eval mode."""

    tokenizer: Any
    model: Any

    def to(self, *where: Any) -> Encoder:
        """The encoder on another device or in another precision; arguments as in `Module.to`."""
        return self._replace(model=self.model.to(*where))


def encode(
    texts: list[str],
    encoder: Encoder,
    batch_size: int,
    max_length: int,
    pooling: str = MEAN,
    progress: Callable[[int], object] = lambda n: None,
) -> Tensor:
    """Pooled last hidden states of n texts, float32 (n, D), unit length, on the CPU.

    Several processes that call this together share the batches.

    Args:
        max_length: tokens per text; longer texts are truncated, and so are texts with more tokens
            than the model has positions.
        pooling: MEAN or LAST.
        progress: called with the number of texts of each batch.

    Raises:
        UserError: the model is not one of texts alone.
    """
    max_length = int(min(max_length, most_tokens(encoder.model)))
    device, vectors = next(encoder.model.parameters()).device, []
    mine = processes.part(len(texts), batch_size)
    with torch.inference_mode():
        for start in mine[::batch_size]:
            given = texts[start : start + batch_size]
            batch = encoder.tokenizer(
                given, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
            ).to(device)
            hidden = _states(encoder, batch).float()  # (b, tokens, D)
            vectors.append(pooled(hidden, batch["attention_mask"], pooling).cpu())
            progress(len(given))
    return torch.nn.functional.normalize(processes.joined(vectors, len(texts), batch_size), dim=-1)


def most_tokens(model: Any) -> float:
    """The tokens that a model has positions for; infinity for relative positions, which have no
    end. RoBERTa and its relatives count from the position after that of the padding."""
    tables = (m for name, m in model.named_modules() if name.endswith("position_embeddings"))
    padding = getattr(next(tables, None), "padding_idx", None)
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return math.inf
    return positions if padding is None else positions - padding - 1


def _states(encoder: Encoder, batch: Any) -> Tensor:
    try:
        states: Tensor = encoder.model(**batch).last_hidden_state
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"The text encoder {encoder.model.name_or_path} is a {type(encoder.model).__name__}, "
            f"which gives no hidden states for texts alone ({one_line(error)}): name a model of "
            f"texts, such as {_KNOWN[0]}."
        ) from error
    return states


def pooled(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector per text, (b, D), from hidden states (b, tokens, D). `mask` (b, tokens) is 1 at
    tokens and 0 at padding, which may be on either side."""
    if pooling == LAST:
        last = mask.size(1) - 1 - mask.flip(1).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    mask = mask.unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def load_encoder(name: str, setting: str) -> Encoder:
    """A transformers model by hub name or folder.

    Args:
        setting: the setting or option that names it, for the error.

    Raises:
        UserError: the model cannot be loaded, with the reason and alternatives.
    """
    from transformers import AutoModel, AutoTokenizer

    # Without a network, transformers retries the hub for minutes, so test the connection first.
    local = Path(name).is_dir() or not _hub_answers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
        if tokenizer.pad_token is None:  # decoder-only models such as LLaMA have no padding token
            # Padding is masked, so any token will do.
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        model = AutoModel.from_pretrained(name, local_files_only=local)
    except Exception as error:  # hub, network and format errors have many types
        near = difflib.get_close_matches(name, _KNOWN, n=3, cutoff=0.3)
        unreachable = local and not Path(name).is_dir()
        tfidf = (
            "--text_encoder=tfidf, which needs no download, " if setting == "text_encoder" else ""
        )
        raise UserError(
            f"{setting} {name!r} cannot be loaded"
            f"{', and the hub cannot be reached' if unreachable else ''} "
            f"({type(error).__name__}: {one_line(error)}). Use {tfidf}the folder of a model on "
            f"disk, or a model of the hub such as {', '.join(near or _KNOWN[:2])}."
        ) from error
    model = getattr(model, "encoder", model) if model.config.is_encoder_decoder else model
    return Encoder(tokenizer, model.eval())


def _hub_answers() -> bool:
    """Whether the model hub answers within a few seconds. With a proxy, True without a test."""
    address = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if urllib.request.getproxies():
        return True
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), _SECONDS_TO_CONNECT).close()
    except OSError:
        return False
    return True
