"""RecBole's own entry points with this project's models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import recbole.config
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.utils import get_flops, get_model
from tiny import best_file, protocol, settings

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.runner.quick_start import run

STOCK = recbole.config.Config


def test_recboles_config_of_our_models_knows_their_settings(rule_folder: Path) -> None:
    chosen = settings(rule_folder, beam_size=17)
    file = rule_folder / "my.yaml"
    file.write_text("model: TiledSASRec\n")
    for made in (
        STOCK("MSCGRec", "rule", config_dict=chosen),
        STOCK(model="MSCGRec", dataset="rule", config_dict=chosen),
        STOCK(config_dict={**chosen, "model": "MSCGRec", "dataset": "rule"}),
    ):
        assert isinstance(made, Config)
        assert made["beam_size"] == 17 and made["eval_args"]["split"] == {"LS": "valid_and_test"}
    plain = protocol(rule_folder, dataset="rule")
    assert isinstance(STOCK(config_file_list=[str(file)], config_dict=plain), Config)


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_recboles_config_of_its_own_models_stays_recboles(model: str, rule_folder: Path) -> None:
    made = STOCK(model, "ml-100k", config_dict={"train_neg_sample_args": None})
    assert type(made) is STOCK and made["exclude_seen"] is None


def test_a_script_may_have_options_of_its_own(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--model=MSCGRec", "--epochs=3", "--my_option=7", "--dataset=rule"]
    monkeypatch.setattr(sys, "argv", ["script.py", *options])
    made = STOCK(config_dict=settings(rule_folder))
    assert isinstance(made, Config) and made["epochs"] == 3
    assert "ignored: ['my_option']" in caplog.text
    with pytest.raises(ValueError, match="beam_sise is not a setting.*did you mean beam_size"):
        STOCK(config_dict=settings(rule_folder, beam_sise=3))  # not of the command line


@pytest.mark.parametrize("exclude_seen", ["none", "all"])
def test_run_recbole_trains_and_tests_as_our_own_run(rule_folder: Path, exclude_seen: str) -> None:
    from recbole.quick_start import run_recbole

    assert "ray" not in sys.modules or hasattr(sys.modules["ray"], "__file__")
    chosen = settings(rule_folder, exclude_seen=exclude_seen, epochs=2)
    expected = run("MSCGRec", "rule", config_dict=chosen)
    chosen["checkpoint_dir"] = str(rule_folder / "theirs")
    found = run_recbole(model="MSCGRec", dataset="rule", config_dict=chosen)
    assert dict(found["test_result"]) == expected["test_result"]
    assert found["best_valid_score"] == pytest.approx(expected["best_valid_score"], abs=1e-6)
    assert found["valid_score_bigger"] is expected["valid_score_bigger"] is True


def test_recboles_load_data_and_model_reads_what_we_save(rule_folder: Path) -> None:
    from recbole.quick_start import load_data_and_model

    run("TiledSASRec", "rule", config_dict=protocol(rule_folder))
    file = best_file(rule_folder / "saved", "TiledSASRec")
    config, model, dataset, *loaders = load_data_and_model(str(file))
    assert config["model"] == "TiledSASRec" and len(loaders) == 3
    assert dataset.item_num == model.n_items == 31


def test_an_objective_function_of_recboles_search(rule_folder: Path) -> None:
    from recbole.quick_start import objective_function

    chosen = protocol(rule_folder, model="TiledSASRec", dataset="rule")
    found = objective_function(config_dict=chosen, saved=False)
    assert found["model"] == "TiledSASRec"
    assert found["best_valid_score"] == pytest.approx(found["best_valid_result"]["ndcg@10"])


def test_a_search_by_hyper_tuning(rule_folder: Path) -> None:
    pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    params = rule_folder / "my.hyper"
    params.write_text("learning_rate choice [0.0, 0.01]\n")
    chosen = protocol(rule_folder)

    def objective(config_dict: dict, config_file_list: list) -> dict:
        return run("TiledSASRec", "rule", config_file_list, {**chosen, **config_dict})

    search = HyperTuning(objective, params_file=str(params), algo="exhaustive", early_stop=2)
    search.run()
    assert search.best_params == {"learning_rate": 0.01}


@pytest.mark.parametrize("model", ["MSCGRec", "TiledSASRec"])
def test_recbole_counts_operations_of_a_row_of_the_whole_data_set(
    model: str, rule_folder: Path
) -> None:
    chosen = (settings if model == "MSCGRec" else protocol)(rule_folder)
    config = STOCK(model, "rule", config_dict=chosen)
    data = create_dataset(config)
    train, *_ = data_preparation(config, data)
    built = get_model(model)(config, train._dataset)
    assert get_flops(built, data, config["device"], None, construct_transform(config)) > 0
    (user,) = data[[5]]["user_id"].tolist()
    row = data[[5]]
    length = int(row["item_length"])
    history = row["item_id_list"][0, :length].tolist()
    assert [(i - history[0]) % 30 for i in history] == list(range(length)) and user > 0
