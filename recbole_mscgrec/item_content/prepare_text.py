"""`recbole-mscgrec prepare text`: makes text vectors with a transformers model, before training."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recbole_mscgrec.config.settings import DataFiles, TextSettings
from recbole_mscgrec.features.text import texts_of
from recbole_mscgrec.features.text_encoder import (
    LAST,
    MEAN,
    Encoder,
    encode,
    load_encoder,
    most_tokens,
)
from recbole_mscgrec.item_content.items import add_data_options, files_of, number, read_item_file
from recbole_mscgrec.item_content.vector_chunks import (
    Chunks,
    Texts,
    check_tokens,
    model_digest,
    shard_of,
)
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import check_folder

Tensor = torch.Tensor
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ABOUT = """
Makes a vector of each item's text with a transformers model: an encoder (BERT), an encoder-decoder
(T5) or a decoder (a large language model). The texts are those of the text modality in training.

The result is DIR/NAME/NAME.text.safetensors, with the item ids beside it in NAME.text.tokens.txt.
Training reads them with --vectors_file="{text: FILE}". Vectors have unit length and are stored as
float16.

Finished chunks are kept beside the result, so a stopped run can be resumed. Several processes share
the work with --shard 0/4 to --shard 3/4 (not needed with torchrun); the one that finishes last
joins the chunks.
"""


def main(arguments: list[str]) -> int:
    """Run the command. Returns 0."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "huggingface_hub", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    shard, n_shards = shard_of(options.shard)
    files = files_of(options)
    out: Path = options.out or files.folder / f"{files.name}.text.safetensors"
    if out.suffix != ".safetensors":
        raise UserError(f"--out ({out}) must end in .safetensors, which vectors_file reads.")
    texts = _texts(options, files)
    device = _device(options.device, shard)
    dtype = _dtype(options.dtype, device)
    chunks = Chunks(out, texts, _recipe(options, dtype))
    logging.getLogger().setLevel(logging.WARNING)  # not a line for each chunk

    if options.join:
        if not chunks.is_done() and not chunks.join():
            raise UserError(_missing(chunks))
    elif not chunks.is_done():
        check_folder(chunks.folder, "--out")
        own = range(shard, len(chunks), n_shards)
        _make(options, chunks, own, device, dtype)
        if not chunks.join() and n_shards == 1:  # a chunk was damaged
            _make(options, chunks, own, device, dtype)
            chunks.join()
    if chunks.is_done():
        print(f'text: {len(texts.texts)} vectors in {out}: --vectors_file="{{text: {out}}}"')
    else:
        print(
            f"text: shard {shard}/{n_shards} is finished; {len(chunks.missing())} of {len(chunks)} "
            "chunks are still missing. The process that finishes last joins them."
        )
    return 0


def _texts(options: argparse.Namespace, files: DataFiles) -> Texts:
    """The items that have a text, with --instruction in front of each text."""
    items = read_item_file(files, options.item_column)
    columns = options.text_columns
    if columns is not None:
        columns = tuple(c for words in columns for c in words.split(",") if c)
        unknown = [column for column in columns if column not in items.types]
        if unknown or not columns:
            raise UserError(
                f"{items.path} has no column {unknown} (--text_columns); it has {[*items.types]}. "
                "Without this option, the text columns are detected."
            )
    text = TextSettings(
        options.encoder, 1, options.batch_size, options.max_length, columns, columns is not None
    )
    found = {token: words for token, words in texts_of(text, items).items() if words}
    if not found:
        raise UserError(
            f"{items.path} holds no text in any of its columns {[*items.types]}: name the columns "
            "with --text_columns."
        )
    check_tokens([*found], items.path)
    return Texts([*found], [options.instruction + words for words in found.values()])


def _recipe(options: argparse.Namespace, dtype: torch.dtype) -> dict[str, Any]:
    """All options that determine the vectors, besides the texts. A model folder is identified by
    its files, because its path may differ on another machine."""
    digest = model_digest(options.encoder)
    return {
        "encoder": Path(options.encoder).resolve().name if digest else options.encoder,
        "encoder_files": digest,
        "pooling": options.pooling,
        "max_length": options.max_length,
        "instruction": options.instruction,
        "dtype": str(dtype).removeprefix("torch."),
    }


def _device(name: str, shard: int) -> torch.device:
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        place = int(os.environ.get("LOCAL_RANK", shard))
        return torch.device("cuda", place % torch.cuda.device_count())
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device ({name}) cannot be used here ({str(error).splitlines()[0]}): use cpu, cuda, "
            "cuda:1, or auto."
        ) from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype for --dtype; auto: bfloat16 on GPUs that support it, because float16 overflows in
    some models, such as T5."""
    if name != "auto":
        return _DTYPES[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16


def _make(
    options: argparse.Namespace,
    chunks: Chunks,
    own: range,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Make the chunks `own` of this process that are not on disk yet."""
    to_do = [k for k in own if not chunks.exists(k)]
    if not to_do:
        return
    encoder = load_encoder(options.encoder, "--encoder")
    _check_length(encoder, options.max_length)
    # With padding on the left, decoders with absolute positions would count it.
    encoder.tokenizer.padding_side = "right"
    encoder = encoder.to(device, dtype)
    n_all = sum(len(chunks.texts_of(k)) for k in own)
    n_left = sum(len(chunks.texts_of(k)) for k in to_do)
    with tqdm(total=n_all, initial=n_all - n_left, desc="Text", unit="") as bar:
        for k in to_do:
            chunks.save(k, _vectors(chunks.texts_of(k), encoder, options, bar))


def _vectors(texts: list[str], encoder: Encoder, options: argparse.Namespace, bar: tqdm) -> Tensor:
    """The vectors of n texts, float16 (n, D). Texts of similar length share a batch, the longest
    first."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    size, length, pooling = options.batch_size, options.max_length, options.pooling
    try:
        rows = encode([texts[i] for i in order], encoder, size, length, pooling, bar.update)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The GPU has too little memory for --batch_size {size} and --max_length {length}: "
            "lower one of them. Finished chunks are kept."
        ) from error
    if not rows.isfinite().all():
        raise UserError(
            f"--encoder {options.encoder} gives NaN or infinity in {encoder.model.dtype}: use "
            "--dtype bfloat16 or float32."
        )
    vectors = torch.empty(len(texts), rows.size(1), dtype=torch.float16)
    vectors[order] = rows.half()
    return vectors


def _check_length(encoder: Encoder, max_length: int) -> None:
    longest = min(encoder.tokenizer.model_max_length, most_tokens(encoder.model))
    if max_length > longest:
        raise UserError(
            f"--max_length ({max_length}) is more than the {longest} tokens that the model reads."
        )


def _missing(chunks: Chunks) -> str:
    missing = chunks.missing()
    return (
        f"--join: {len(missing)} of {len(chunks)} chunks are not in {chunks.folder}; the first is "
        f"number {missing[0] if missing else 0}. Run the shards to their end; all need the same "
        "texts and the same --encoder, --pooling, --max_length, --instruction and --dtype (auto "
        "depends on the device)."
    )


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="recbole-mscgrec prepare text",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_data_options(made)
    text = made.add_argument_group("text and model")
    text.add_argument(
        "--encoder", required=True, metavar="MODEL", help="name on the hub, or folder of a model"
    )
    text.add_argument(
        "--text_columns",
        nargs="+",
        metavar="COLUMN",
        help="columns that make up the text (default: those that hold text)",
    )
    text.add_argument(
        "--instruction",
        default="",
        metavar="TEXT",
        help="text put in front of each item's text, such as 'passage: '; see the model card",
    )
    text.add_argument(
        "--pooling",
        choices=(MEAN, LAST),
        default=MEAN,
        help="mean over the tokens, or the last token, as for most decoders (default: %(default)s)",
    )
    text.add_argument(
        "--max_length",
        type=number(int, 1),
        default=256,
        help="tokens per text; longer texts are truncated (default: %(default)s)",
    )
    text.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the .safetensors file (default: DIR/NAME/NAME.text.safetensors)",
    )
    work = made.add_argument_group("work")
    work.add_argument(
        "--batch_size",
        type=number(int, 1),
        default=64,
        help="texts per batch (default: %(default)s)",
    )
    work.add_argument(
        "--dtype",
        choices=("auto", *_DTYPES),
        default="auto",
        help="dtype of the model; auto: bfloat16 (or float16) on a GPU, float32 on the CPU",
    )
    work.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: auto)")
    work.add_argument(
        "--shard", metavar="I/N", help="do part I of N, from 0 (default: torchrun's rank, or 0/1)"
    )
    work.add_argument("--join", action="store_true", help="only join chunks that are finished")
    return made
