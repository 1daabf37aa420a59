"""No pickle of data is read or written: a data set is what its files hold now."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from recbole.data import create_dataset, data_preparation
from tiny import protocol, rule_sequences, write_dataset

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.checks import check_data
from recbole_mscgrec.storage.errors import UserError


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path("trapped").touch, ())


def config(folder: Path, **changes: Any) -> Config:
    return Config("SASRec", "rule", config_dict=protocol(folder, **changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("save_dataset", True),
        ("save_dataloaders", True),
        ("dataset_save_path", "x.pth"),
        ("dataloaders_save_path", "x.pth"),
    ],
)
def test_settings_that_save_data_are_refused(rule_folder: Path, key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"{key} \({value}\): saved data are pickles.*Leave it"):
        check_data(config(rule_folder, **{key: value}))


def test_a_pickle_beside_the_checkpoints_is_not_read(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = rule_folder / "saved"
    saved.mkdir()
    for name in ("rule-SequentialDataset.pth", "rule-for-SASRec-dataloader.pth"):
        (saved / name).write_bytes(pickle.dumps(Trap()))
    write_dataset(rule_folder / "data", "rule", rule_sequences(50))
    chosen = config(rule_folder)
    data = create_dataset(chosen)
    assert data.user_num == 50 + 1  # as the file is now
    train = data_preparation(chosen, data)[0]
    assert len(train._dataset) > 0 and not Path("trapped").exists()
    (line,) = [m for m in caplog.messages if "pickle" in m]
    assert "rule-SequentialDataset.pth is a pickle of saved data and is not read" in line


def test_no_pickle_is_written(rule_folder: Path) -> None:
    chosen = config(rule_folder)
    data = create_dataset(chosen)
    with pytest.raises(UserError, match="neither writes nor reads"):
        data.save()
    chosen["save_dataloaders"] = True
    with pytest.raises(UserError, match="neither writes nor reads"):
        data_preparation(chosen, data)
    assert not list(rule_folder.glob("saved/*"))
