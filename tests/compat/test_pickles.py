"""RecBole's pickles of data sets and loaders are loaded only if the user asked for it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import recbole.data.utils
from tiny import protocol, settings

from recbole_mscgrec.compat import pickles
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage.errors import UserError


class Payload:
    """Unpickling this creates the file PWNED."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("PWNED"),))


@pytest.mark.parametrize(
    ("model", "name", "key"),
    [
        ("SASRec", "rule-SequentialDataset.pth", "dataset_save_path"),
        ("MSCGRec", "rule-TiledDataset.pth", "dataset_save_path"),
        ("MSCGRec", "rule-MSCGRecDataset.pth", "dataset_save_path"),
        ("SASRec", "rule-for-SASRec-dataloader.pth", "dataloaders_save_path"),
    ],
)
def test_what_lies_in_the_checkpoint_folder_is_not_run(
    rule_folder: Path, model: str, name: str, key: str
) -> None:
    chosen = (settings if model == "MSCGRec" else protocol)(rule_folder)
    (rule_folder / "saved").mkdir()
    (rule_folder / "saved" / name).write_bytes(pickle.dumps(Payload()))
    try:
        run(model, "rule", config_dict=chosen)
    except UserError as error:
        assert name in str(error) and f"set {key} to it" in str(error)
    else:  # RecBole does not look for this name
        assert model == "MSCGRec"
    assert not Path("PWNED").exists()


def test_what_the_user_asked_for_is_loaded(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen, path = protocol(rule_folder), "dataset_save_path"
    expected = run("SASRec", "rule", config_dict={**chosen, "save_dataset": True})["test_result"]
    file = str(rule_folder / "saved" / "rule-SequentialDataset.pth")
    with pytest.raises(UserError, match=f"set {path} to it"):
        run("SASRec", "rule", config_dict=chosen)
    caplog.set_level("INFO")
    found = run("SASRec", "rule", config_dict={**chosen, path: file})["test_result"]
    assert found == expected and f"[{file}]" in caplog.text


def test_applying_twice_changes_nothing() -> None:
    before = recbole.data.utils.pickle, recbole.data.utils.create_dataset
    pickles.apply()
    assert before == (recbole.data.utils.pickle, recbole.data.utils.create_dataset)
