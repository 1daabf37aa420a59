"""Vectors of texts by transformers models, made here with random weights."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import tiny
import torch
from tiny import in_processes

from recbole_mscgrec.features import text_encoder
from recbole_mscgrec.features.text_encoder import LAST, MEAN, encode, load_encoder, pooled
from recbole_mscgrec.storage.errors import UserError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: tiny.write_encoder(folder / kind, kind) for kind in ("bert", "llama", "t5")}


def test_pooling_skips_padding_on_either_side() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    right, left = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[0, 1, 1], [1, 0, 0]])
    assert pooled(hidden, right, MEAN).tolist() == [[1, 2], [8, 9]]
    assert pooled(hidden, right, LAST).tolist() == [[2, 3], [10, 11]]
    assert pooled(hidden, left, MEAN).tolist() == [[3, 4], [6, 7]]
    assert pooled(hidden, left, LAST).tolist() == [[4, 5], [6, 7]]


TEXTS = {"red apples": [5, 7, 9], "car": [8], "green green car red": [6, 6, 8, 5]}


# Positions of BERT are absolute: padding on the left would move them.
@pytest.mark.parametrize(
    ("kind", "side"),
    [("bert", "right"), ("llama", "right"), ("llama", "left"), ("t5", "right"), ("t5", "left")],
)
@pytest.mark.parametrize("pooling", [MEAN, LAST])
def test_vectors_equal_those_of_one_text_at_a_time(
    models: dict[str, Path], kind: str, pooling: str, side: str
) -> None:
    """The reference calls the model without any padding."""
    encoder = load_encoder(str(models[kind]), "encoder")
    encoder.tokenizer.padding_side = side
    found = encode(list(TEXTS), encoder, 3, 16, pooling)
    for row, words in zip(found, TEXTS.values(), strict=True):
        ids = [2, *words, 3] if kind == "bert" else [*words, 3]
        with torch.no_grad():
            hidden = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == MEAN else hidden[-1]
        torch.testing.assert_close(row, expected / expected.norm(), rtol=1e-4, atol=1e-5)


def test_a_text_longer_than_the_model_reads_is_cut(models: dict[str, Path]) -> None:
    """The tiny BERT has 64 positions; text_max_length is 256 by default."""
    encoder = load_encoder(str(models["bert"]), "x")
    long = encode(["red " * 300, "car"], encoder, 2, 256)
    assert torch.equal(long, encode(["red " * 300, "car"], encoder, 2, 64))


def test_positions_are_counted_after_that_of_the_padding(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    from transformers import RobertaConfig, RobertaModel

    shutil.copytree(models["bert"], tmp_path, dirs_exist_ok=True)
    sizes = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    RobertaModel(
        RobertaConfig(**sizes, vocab_size=16, max_position_embeddings=34, pad_token_id=1)
    ).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), "x")
    for length in (33, 34, 256):
        long = encode(["red " * 300], encoder, 1, length)
        assert torch.equal(long, encode(["red " * 300], encoder, 1, 32))


def test_a_model_of_texts_and_images_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    from transformers import CLIPConfig, CLIPModel

    sizes = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    texts = {**sizes, "vocab_size": 16, "max_position_embeddings": 32, "eos_token_id": 3}
    images = {**sizes, "image_size": 8, "patch_size": 4}
    shutil.copytree(models["bert"], tmp_path, dirs_exist_ok=True)
    config = CLIPConfig(text_config=texts, vision_config=images, projection_dim=4)
    CLIPModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a CLIPModel.* for texts alone .*name a model"):
        encode(["red"], load_encoder(str(tmp_path), "text_encoder"), 1, 16)


def test_progress_counts_texts(models: dict[str, Path]) -> None:
    counts: list[int] = []
    encode(list(TEXTS), load_encoder(str(models["bert"]), "x"), 2, 8, progress=counts.append)
    assert counts == [2, 1]


def test_without_a_network_an_unknown_encoder_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Port 9 of this machine stands for a hub that does not answer."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(text_encoder.urllib.request, "getproxies", dict)
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"--encoder 'all-MiniLM-L6' .*hub cannot be reached") as e:
        load_encoder("all-MiniLM-L6", "--encoder")
    assert "all-MiniLM-L6-v2" in str(e.value) and "tfidf" not in str(e.value)
    assert time.perf_counter() - began < 20  # the import of transformers is in it


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_several_processes_encode_what_one_encodes(models: dict[str, Path], kind: str) -> None:
    """To the last digit: each makes whole batches of the texts, in their order."""
    texts = [" ".join(["red", "car"] * (1 + n % 5)) + " apples" * (n % 3) for n in range(17)]
    encoder = load_encoder(str(models[kind]), "x")

    def vectors() -> tuple[torch.Tensor, int]:
        counts: list[int] = []
        return encode(texts, encoder, 4, 16, progress=counts.append), sum(counts)

    one, all_of_them = vectors()
    assert all_of_them == 17
    for n, numbers in ((2, [12, 5]), (3, [8, 8, 1])):
        found = in_processes(n, vectors)
        assert [count for _, count in found] == numbers
        assert all(torch.equal(made, one) for made, _ in found)
