"""Tiny data sets in RecBole's atomic format, and settings under which a model takes a second."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image, ImageDraw
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.network.model import Sizes
from recbole_mscgrec.rq_dino.settings import RQDinoSettings
from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable
from recbole_mscgrec.storage import processes
from recbole_mscgrec.tokenizer.pipeline import Tokenization, tokenize

N_ITEMS = 30
Sequences = dict[str, list[str]]


def rule_sequences(n_users: int = 40, n_items: int = N_ITEMS) -> Sequences:
    """Every user walks from item to item + 1, modulo the catalogue, for 6 to 14 steps."""
    return {
        f"u{u}": [f"i{(7 * u + step) % n_items}" for step in range(6 + u % 9)]
        for u in range(n_users)
    }


def random_sequences(
    n_users: int, n_items: int, shortest: int, longest: int, seed: int = 0
) -> Sequences:
    """Items drawn at random, with repetitions."""
    draw = random.Random(seed)
    return {
        f"u{u}": [f"i{draw.randrange(n_items)}" for _ in range(draw.randint(shortest, longest))]
        for u in range(n_users)
    }


def item_texts(n_items: int = N_ITEMS) -> dict[str, str]:
    """A text of three words for every item: its own name and two groups."""
    return {f"i{i}": f"name{i} fives{i // 5} thirds{i % 3}" for i in range(n_items)}


def write_inter(folder: Path, name: str, rows: list[tuple[str, str, float]]) -> Path:
    """<folder>/<name>/<name>.inter with the given (user, item, timestamp) rows in this order."""
    file = folder / name / f"{name}.inter"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}\t{item}\t{time}" for user, item, time in rows]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


def write_item(folder: Path, name: str, texts: dict[str, str]) -> Path:
    """<folder>/<name>/<name>.item with one text column, `title`."""
    file = folder / name / f"{name}.item"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{item}\t{text}" for item, text in texts.items()]
    file.write_text("\n".join(["item_id:token\ttitle:token_seq", *lines]) + "\n", encoding="utf-8")
    return file


def write_table(folder: Path, name: str, suffix: str, header: str, rows: list[str]) -> None:
    """<folder>/<name>/<name>.<suffix>; header and rows have spaces between their columns."""
    file = folder / name / f"{name}.{suffix}"
    lines = [line.replace(" ", "\t") for line in (header, *rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_dataset(
    folder: Path, name: str, sequences: Sequences, texts: dict[str, str] | None = None
) -> None:
    """A data set in which the timestamp is the position in the user's sequence."""
    rows = [(u, i, float(t)) for u, items in sequences.items() for t, i in enumerate(items)]
    write_inter(folder, name, rows)
    if texts is not None:
        write_item(folder, name, texts)


def protocol(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings every model understands: data and files under `folder`, one epoch, no bars."""
    return {
        "data_path": str(folder / "data"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "checkpoint_dir": str(folder / "saved"),
        "show_progress": False,
        "use_gpu": False,
        "epochs": 1,
        "topk": [1, 5, 10],
        "MAX_ITEM_LIST_LENGTH": 12,
        **changes,
    }


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """`protocol` plus the sizes of a tiny MSCGRec."""
    sizes = {
        "cache_dir": str(folder / "cache"),
        "n_levels": 2,
        "codebook_size": 6,
        "hidden_size": 16,
        "inner_size": 32,
        "n_heads": 2,
        "n_encoder_layers": 1,
        "n_decoder_layers": 1,
        "learned_items": 0,
        "n_distance_buckets": 8,
        "max_distance": 16,
        "beam_size": 10,
        "train_batch_size": 16,
        "text_tfidf_size": 8,
        "collaborative_size": 8,
        "collaborative_n_layers": 1,
        "collaborative_epochs": 2,
        "collaborative_batch_size": 16,
    }
    return protocol(folder, **{**sizes, **changes})


class Built(NamedTuple):
    """A model, not trained, with its configuration and RecBole's three loaders."""

    config: Config
    model: Any
    train: Any
    valid: Any
    test: Any


def build(model: str, dataset: str, config_dict: dict[str, Any]) -> Built:
    """What quick_start.run makes before training."""
    config = Config(model, dataset, config_dict=config_dict)
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    made = get_model(config["model"])(config, loaders[0]._dataset)
    return Built(config, made, *loaders)


def network_sizes(**changes: Any) -> Sizes:
    """Sizes of a tiny network without dropout."""
    tiny = {
        "hidden_size": 16,
        "inner_size": 32,
        "n_heads": 2,
        "n_encoder_layers": 2,
        "n_decoder_layers": 2,
        "dropout_prob": 0.0,
        "n_distance_buckets": 8,
        "max_distance": 16,
        "modality_mask_prob": 0.0,
    }
    return Sizes(**{**tiny, **changes})


def train_split(folder: Path, dataset: str = "rule", **changes: Any) -> tuple[Config, Any]:
    """The configuration of a tiny MSCGRec, and the train split that its tokenizers see."""
    config = Config("MSCGRec", dataset, config_dict=settings(folder, **changes))
    return config, create_dataset(config).build()[0]


def tokens_of(folder: Path, **changes: Any) -> Tokenization:
    """The codes of a tiny MSCGRec on the data set `rule`."""
    config, train = train_split(folder, **changes)
    return tokenize(typed(config, train), train)


def learned_ids(n: int, n_items: int = 24, seed: int = 0) -> torch.Tensor | None:
    """The ids (n,) of random items with a learned vector; None if that is none of them, or all."""
    if n in (0, n_items):
        return None
    order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed))
    return (order[:n] + 1).sort().values.int()


def code_table(n_items: int = 25, sizes: tuple[int, ...] = (4, 5, 3), seed: int = 0) -> CodeTable:
    """Random unique target codes; a text modality that every fourth item lacks."""
    generator = torch.Generator().manual_seed(seed)
    everything = torch.cartesian_prod(*(torch.arange(s) for s in sizes)).view(-1, len(sizes))
    chosen = everything[torch.randperm(len(everything), generator=generator)[: n_items - 1]]
    text = torch.randint(6, (n_items, 2), generator=generator)
    text[::4] = MISSING
    target = torch.cat([torch.full((1, len(sizes)), MISSING), chosen])
    return CodeTable({"a": target, "text": text}, {"a": list(sizes), "text": [6, 6]}, "a")


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter random values, also those that start at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


# --- images ---------------------------------------------------------------------------------------


def dino_settings(**changes: Any) -> RQDinoSettings:
    """Settings of a tiny RQ-DINO: two layers of 32 numbers on 16 x 16 pixels."""
    return RQDinoSettings(
        **{
            "backbone": "vit_tiny_patch16_224",
            "backbone_args": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
            "weights": None,
            "projection": None,
            "size": 16,
            "local_size": 8,
            "n_local_crops": 1,
            "global_scale": [0.5, 1.0],
            "local_scale": [0.2, 0.5],
            "colour_jitter": 0.1,
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 0.002,
            "warmup_epochs": 1,
            "weight_decay": [0.04, 0.1],
            "clip_norm": 3.0,
            "drop_path": 0.0,
            "head_size": 32,
            "out_dim": 32,
            "freeze_last_layer": 1,
            "student_temperature": 0.1,
            "teacher_temperature": 0.04,
            "teacher_balance": "sinkhorn",
            "teacher_momentum": 0.9,
            "spread": 0.1,
            "quantize": True,
            "quantize_after": 1,
            "commitment": 1.0,
            "codebook_decay": 0.9,
            "restart_below": 0.2,
            "cache_gb": 1.0,
            **changes,
        }
    )


def coloured_shapes(n: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of 24 x 32 pixels; picture i has shape i % 2 (disc, bar) in colour i // 2 % 3."""
    draw, images = random.Random(seed), []
    for i in range(n):
        ground = tuple(draw.randrange(40) for _ in range(3))
        image = Image.new("RGB", (24, 32), ground)
        colour = [draw.randrange(40)] * 3
        colour[i // 2 % 3] = draw.randrange(190, 256)
        x, y = draw.randrange(2, 8), draw.randrange(4, 10)
        pen = ImageDraw.Draw(image)
        if i % 2:
            pen.rectangle((x, y + 6, x + 14, y + 10), fill=tuple(colour))
        else:
            pen.ellipse((x, y, x + 14, y + 16), fill=tuple(colour))
        images.append(image)
    return images


# --- text encoders --------------------------------------------------------------------------------

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] red green apple car ##s".split()


def write_encoder(folder: Path, kind: str) -> Path:
    """A transformers model with a tokenizer of ten word pieces and random weights, width 12: bert
    (`[CLS] words [SEP]`), llama (a decoder, `words [SEP]`, no padding token) or t5."""
    from transformers import (
        BertConfig,
        BertModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        T5Config,
        T5Model,
    )

    ids = {word: i for i, word in enumerate(WORDS)}
    single = [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    ends = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single,
        "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [ids["[SEP]"]], "tokens": ["[SEP]"]}},
    }
    both = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    raw = folder / "raw.json"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": both if kind == "bert" else ends,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }
    raw.write_text(json.dumps(tokenizer))
    special = dict(unk_token="[UNK]", eos_token="[SEP]")
    if kind != "llama":
        special |= dict(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    names = ["input_ids", "attention_mask"]
    fast = PreTrainedTokenizerFast(tokenizer_file=str(raw), model_input_names=names, **special)
    fast.save_pretrained(folder)
    raw.unlink()
    torch.manual_seed(0)
    sizes = dict(vocab_size=len(WORDS), hidden_size=12, num_hidden_layers=1)
    wider = dict(num_attention_heads=2, intermediate_size=16, max_position_embeddings=64)
    if kind == "bert":
        BertModel(BertConfig(**sizes, **wider)).save_pretrained(folder)
    elif kind == "llama":
        LlamaForCausalLM(LlamaConfig(**sizes, **wider, eos_token_id=3)).save_pretrained(folder)
    else:
        sizes = dict(vocab_size=len(WORDS), d_model=12, num_layers=1, num_heads=2, d_kv=6, d_ff=16)
        T5Model(T5Config(**sizes)).save_pretrained(folder)
    return folder


# --- runs ---------------------------------------------------------------------------------------


def arguments(chosen: dict[str, Any]) -> list[str]:
    """Settings as a user types them."""
    return [f"--{key}={value}" for key, value in chosen.items()]


def best_file(folder: Path, model: str) -> Path:
    """The checkpoint of the best epoch."""
    (file,) = [p for p in folder.glob(f"{model}-*.pth") if not p.name.endswith(".last.pth")]
    return file


def interrupt(monkeypatch: pytest.MonkeyPatch, model: type, call: int) -> None:
    """Press Ctrl-C in the given call of calculate_loss."""
    calls, original = [0], model.calculate_loss

    def calculate_loss(self: Any, interaction: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return original(self, interaction)

    monkeypatch.setattr(model, "calculate_loss", calculate_loss)


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Within this block files cannot grow beyond this size: the disk answers as a full one does."""
    resource = pytest.importorskip("resource")
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def in_processes(n: int, function: Callable[[], Any], group: bool = True) -> list[Any]:
    """The results of a function called in n processes that form a group, by rank. They are forks of
    this one, which saves the imports. Raises what the first of them raised. Without `group` the
    function has to form it."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def go(rank: int) -> None:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in (place | address).items()})
        try:
            with processes.together() if group else nullcontext():
                results.put((rank, pickle.dumps(function()), None))
                processes.wait()
        except BaseException as error:
            results.put((rank, None, error))
        results.close()
        results.join_thread()
        os._exit(0)  # without pytest's own end

    started = [context.Process(target=go, args=(rank,)) for rank in range(n)]
    for process in started:
        process.start()
    found: dict[int, Any] = {}
    try:
        for _ in range(n):
            rank, result, error = results.get(timeout=120)
            if error is not None:
                raise error
            found[rank] = pickle.loads(result)
    finally:
        for process in started:
            process.join(timeout=10)
            process.kill()
    return [found[rank] for rank in range(n)]


def typed(config: Config, train: Any) -> MSCGRecSettings:
    """The settings of a configuration for the data set whose train split is `train`."""
    return MSCGRecSettings.of(config, train)
