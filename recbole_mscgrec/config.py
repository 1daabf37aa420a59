"""Config: RecBole's, with this project's properties applied over RecBole's and every key checked.

Order of precedence, later wins: RecBole's internal files < properties/overall.yaml <
properties/model/<model>.yaml < properties/dataset/<dataset>.yaml < config files < config_dict <
command line.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import recbole.config
import yaml
from recbole.utils import ModelType, argument_list

# Models that share the YAML file of another one.
_YAML_OF = {"MSCGRecTokenizer": "MSCGRec"}

# Keys that RecBole's code reads although none of its YAML files names them.
_RECBOLE_READS = (
    "benchmark_filename config_file config_files dataset encoding entity_embedding_size"
    " fields_in_same_table item_fields local_rank loss_type model mask_ratio neg_sampling nproc"
    " numerical_features offset pre_model_path preload_weight reg_weight seq_len transform"
    " user_fields training_neg_sample_num world_size ip port LABEL_FIELD MASK_ITEM_SEQ ITEM_SEQ"
    " POS_ITEMS NEG_ITEMS MASK_INDEX"
).split()


def properties_folder() -> Path:
    """The folder of the YAML files: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "properties", here.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"properties/overall.yaml is neither in {here} nor beside it: the installation is "
        "incomplete, reinstall with `pip install .`"
    )


class Config(recbole.config.Config):
    """RecBole's Config plus this project's properties.

    Raises:
        ValueError: an unknown key (with the nearest known one) or a value of the wrong type.
    """

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        folder = properties_folder()
        self._known = set(self.internal_config_dict) | set(_recbole_keys(self))
        for path in (
            folder / "overall.yaml",
            folder / "model" / f"{_YAML_OF.get(model, model)}.yaml",
            folder / "dataset" / f"{dataset}.yaml",
        ):
            if path.is_file():
                self._update_internal_config_dict(str(path))
        self._known |= set(self.internal_config_dict)
        self._known |= set(_all_project_keys(folder, self.yaml_loader))
        if (
            self.internal_config_dict["MODEL_TYPE"] == ModelType.SEQUENTIAL
            and {**self.internal_config_dict, **self.external_config_dict}.get("loss_type") == "CE"
        ):
            # Cross-entropy over all items needs no negatives; RecBole's default samples one.
            self.internal_config_dict["train_neg_sample_args"] = None
        self._check_external_keys()

    def _check_external_keys(self) -> None:
        for key, value in self.external_config_dict.items():
            if key not in self._known:
                near = difflib.get_close_matches(key, sorted(self._known), n=1, cutoff=0.5)
                hint = f": did you mean {near[0]}?" if near else "."
                raise ValueError(f"{key} is not a setting of RecBole or of {self.model_name}{hint}")
            check_type(key, value, self.internal_config_dict.get(key))

    @property
    def model_name(self) -> str:
        return str(self.external_config_dict.get("model", "this model"))


def check_type(key: str, value: Any, default: Any) -> None:
    """Raise ValueError where `value` has another type than the key's default."""
    if default is None or value is None:
        return
    allowed: tuple[type, ...]
    if isinstance(default, bool):
        allowed = (bool,)
    elif isinstance(default, int):
        # One number or a list of them (per level, per k): the key's reader validates which.
        allowed = (int, list, tuple)
    elif isinstance(default, float):
        allowed = (int, float)
    elif isinstance(default, (list, tuple)):
        allowed = (list, tuple, str, int)
    elif isinstance(default, dict):
        allowed = (dict,)
    elif key == "gpu_id":
        allowed = (int, str, tuple)
    else:
        allowed = (str,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ValueError(
            f"{key} must be {' or '.join(t.__name__ for t in allowed)} (default {default!r}), "
            f"not {type(value).__name__} {value!r}."
        )


def _recbole_keys(config: recbole.config.Config) -> list[str]:
    keys = [*_RECBOLE_READS, *config.parameters["Dataset"]]
    for name in ("general", "training", "evaluation", "dataset"):
        keys += getattr(argument_list, f"{name}_arguments")
    return keys


def _all_project_keys(folder: Path, loader: type) -> list[str]:
    """Keys of overall.yaml and of every data set file: those describe data, whatever its name."""
    keys: list[str] = []
    for path in (folder / "overall.yaml", *sorted(folder.glob("dataset/*.yaml"))):
        keys += yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return keys
