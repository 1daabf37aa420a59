"""The command `prepare text`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from tiny import WORDS, settings, train_split, write_encoder, write_item

import recbole_mscgrec
from recbole_mscgrec.cli import main
from recbole_mscgrec.features.given_files import given_vectors
from recbole_mscgrec.features.text_encoder import load_encoder
from recbole_mscgrec.item_content import prepare_images, prepare_text, vector_chunks
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage.errors import UserError

VECTORS = Path("data/rule/rule.text.safetensors")
# Words of different number for each item.
TEXTS = {
    f"i{i}": " ".join(("red", "green", "apple", "car")[(i + j) % 4] for j in range(1 + i % 5))
    for i in range(30)
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: write_encoder(folder / kind, kind) for kind in ("bert", "llama")}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_chunks, "CHUNK", 4)


@pytest.fixture
def folder(rule_folder: Path) -> Path:
    """The rule data set with texts that the tiny models know; two items have none."""
    write_item(rule_folder / "data", "rule", {**TEXTS, "i3": "", "i20": "  "})
    return rule_folder


def prepare(model: Path, *options: str) -> int:
    words = ["--name=rule", "--data_path=data", f"--encoder={model}", "--max_length=16"]
    return main(["prepare", "text", *words, "--batch_size=3", "--device=cpu", *options])


def stored() -> tuple[torch.Tensor, dict[str, Any]]:
    with safetensors.safe_open(VECTORS, framework="pt") as file:
        return file.get_tensor("vectors"), json.loads(file.metadata()["made"])


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_vectors_are_those_of_each_text_alone(
    folder: Path, models: dict[str, Path], kind: str, pooling: str
) -> None:
    assert prepare(models[kind], f"--pooling={pooling}", "--instruction=red ") == 0
    vectors, made = stored()
    tokens = VECTORS.with_suffix(".tokens.txt").read_text().split()
    assert tokens == [item for item in TEXTS if item not in ("i3", "i20")]
    assert vectors.dtype == torch.float16 and vectors.shape == (28, 12)
    model = load_encoder(str(models[kind]), "x").model
    for token, row in zip(tokens, vectors, strict=True):
        ids = [WORDS.index(word) for word in f"red {TEXTS[token]}".split()]
        ids = [2, *ids, 3] if kind == "bert" else [*ids, 3]
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == "mean" else hidden[-1]
        torch.testing.assert_close(row.float(), expected / expected.norm(), rtol=1e-3, atol=1e-3)
    assert made["encoder"] == kind and made["pooling"] == pooling and made["n_items"] == 28
    assert made["dtype"] == "float32" and made["instruction"] == "red "


def test_vectors_file_reads_them_and_a_model_is_trained(
    folder: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(models["bert"]) == 0
    assert f'--vectors_file="{{text: {VECTORS}}}"' in capsys.readouterr().out
    _, data = train_split(folder)
    table, present = given_vectors(str(VECTORS), "text", data)
    absent = {data.id2token("item_id", i) for i in (~present).nonzero().flatten().tolist()}
    assert absent == {"[PAD]", "i3", "i20"} and table.dtype == torch.float32
    torch.testing.assert_close(table.norm(dim=1), present.float(), rtol=1e-3, atol=1e-3)
    chosen = settings(folder, vectors_file={"text": str(VECTORS)})
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert "text" in result["code_health"] and "ndcg@10" in result["test_result"]


def test_shards_in_any_order_give_the_file_of_one_run(
    folder: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(models["bert"]) == 0
    expected = VECTORS.read_bytes()
    VECTORS.unlink()
    assert prepare(models["bert"], "--shard=2/3") == 0
    assert "shard 2/3 is finished; 5 of 7 chunks" in capsys.readouterr().out
    assert prepare(models["bert"], "--join") == 1
    assert "--join: 5 of 7 chunks are not in" in capsys.readouterr().err
    assert prepare(models["bert"], "--shard=0/3") == 0 and not VECTORS.exists()
    assert prepare(models["bert"], "--shard=1/3") == 0
    assert VECTORS.read_bytes() == expected
    assert not list(Path("data/rule").glob("*.chunks"))


def test_torchruns_variables_are_the_shard(
    folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        assert not VECTORS.exists()
        monkeypatch.setenv("RANK", rank)
        assert prepare(models["bert"]) == 0
    assert len(stored()[0]) == 28


def interrupt_after(monkeypatch: pytest.MonkeyPatch, n_chunks: int) -> list[list[str]]:
    """Press Ctrl-C after some chunks. Returns the texts of each chunk that is encoded."""
    calls: list[list[str]] = []
    original = prepare_text.encode

    def encode(texts: list[str], *args: Any) -> torch.Tensor:
        calls.append(texts)
        if len(calls) == n_chunks + 1:
            raise KeyboardInterrupt
        return original(texts, *args)

    monkeypatch.setattr(prepare_text, "encode", encode)
    return calls


def test_a_stopped_run_goes_on_and_ends_in_the_same_file(
    folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(models["llama"], "--pooling=last") == 0
    expected = VECTORS.read_bytes()
    VECTORS.unlink()
    calls = interrupt_after(monkeypatch, 5)
    assert prepare(models["llama"], "--pooling=last") == 130 and len(calls) == 6
    assert not VECTORS.exists()
    assert prepare(models["llama"], "--pooling=last") == 0 and len(calls) == 8
    assert VECTORS.read_bytes() == expected
    assert prepare(models["llama"], "--pooling=last") == 0 and len(calls) == 8  # nothing to do
    assert prepare(models["llama"], "--pooling=mean") == 0 and len(calls) == 15
    assert VECTORS.read_bytes() != expected


def test_a_damaged_chunk_is_made_again(
    folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(models["bert"]) == 0
    expected = VECTORS.read_bytes()
    VECTORS.unlink()
    calls = interrupt_after(monkeypatch, 2)
    assert prepare(models["bert"]) == 130
    first = min(Path("data/rule").glob("*.chunks/chunk*"))
    first.write_bytes(first.read_bytes()[:-1])
    assert prepare(models["bert"]) == 0 and len(calls) == 9
    assert VECTORS.read_bytes() == expected


def test_batches_hold_texts_of_similar_length(
    folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = interrupt_after(monkeypatch, 99)
    assert prepare(models["bert"]) == 0
    lengths = [[len(text) for text in texts] for texts in calls]
    assert all(chunk == sorted(chunk, reverse=True) for chunk in lengths)


def test_precisions(folder: Path, models: dict[str, Path]) -> None:
    assert prepare(models["bert"]) == 0
    exact, _ = stored()
    assert prepare(models["bert"], "--dtype=bfloat16") == 0
    vectors, made = stored()
    assert made["dtype"] == "bfloat16" and not torch.equal(vectors, exact)
    torch.testing.assert_close(vectors, exact, rtol=0.05, atol=0.03)


def test_columns_are_chosen_by_name(folder: Path, models: dict[str, Path]) -> None:
    lines = ["item_id:token\ttitle:token_seq\tcolour:token", "i1\tcar\tred", "i2\tapple\tgreen"]
    (folder / "data/rule/rule.item").write_text("\n".join(lines) + "\n")
    assert prepare(models["bert"], "--text_columns", "colour,title") == 0
    chosen, _ = stored()
    lines = ["item_id:token\ttitle:token_seq", "i1\tred car", "i2\tgreen apple"]
    (folder / "data/rule/rule.item").write_text("\n".join(lines) + "\n")
    assert prepare(models["bert"]) == 0
    assert torch.equal(stored()[0], chosen)


def test_numbers_that_are_none_are_refused(
    folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(texts: list[str], *args: Any) -> torch.Tensor:
        return torch.full((len(texts), 2), float("nan"))

    monkeypatch.setattr(prepare_text, "encode", encode)
    words = ["--name=rule", "--data_path=data", f"--encoder={models['bert']}", "--max_length=9"]
    with pytest.raises(UserError, match=r"gives NaN or infinity in torch.float32: use --dtype"):
        prepare_text.main(words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_length=65"], "--max_length (65) is more than the 64 tokens that the model reads"),
        (["--shard=3/3"], "--shard (3/3) must be I/N"),
        (["--out=vectors.npz"], "--out (vectors.npz) must end in .safetensors"),
        (["--text_columns", "plot"], "has no column ['plot'] (--text_columns)"),
        (["--encoder=nowhere/model"], "--encoder 'nowhere/model' cannot be loaded"),
        (["--device=cuda:99"], "--device (cuda:99) cannot be used here"),
        (["--name=other"], "data/other/other.item does not exist"),
    ],
)
def test_mistakes_are_named_in_one_line(
    folder: Path,
    models: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert prepare(models["bert"], *options) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert message in line


def test_items_without_any_text(
    folder: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_item(folder / "data", "rule", {"i1": "", "i2": ""})
    assert prepare(models["bert"]) == 1
    assert "holds no text in any of its columns" in capsys.readouterr().err


def test_the_commands_and_defaults_of_the_page_are_true() -> None:
    page = Path(recbole_mscgrec.__file__).parents[1] / "docs" / "fetch.md"
    parsers = {"images": prepare_images.parser(), "text": prepare_text.parser()}
    text, n_commands = page.read_text(encoding="utf-8"), 0
    for line in text.splitlines():
        words = shlex.split(line) if line.startswith("recbole-mscgrec prepare") else []
        if words:
            parsers[words[2]].parse_args(words[3:])
            n_commands += 1
    assert n_commands == 6
    images, _, texts = text.partition("## Text vectors")
    for parser, part in ((parsers["images"], images), (parsers["text"], texts)):
        for option, default in re.findall(r"^\| `--(\w+)` \| ([\w.,]+) \|", part, flags=re.M):
            value = parser.get_default(option)
            told = value or "none" if isinstance(value, str) else f"{value:,}".replace(".0", "")
            assert default == told, option
