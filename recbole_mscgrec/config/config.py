"""RecBole's Config with this project's properties, and with every key checked.

Order of precedence, later wins: RecBole's internal files < properties/overall.yaml <
properties/model/<model>.yaml < properties/dataset/<dataset>.yaml < config files < config_dict <
command line.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import recbole
import recbole.config
from recbole.utils import ModelType, argument_list

from recbole_mscgrec.config import data_fields, model_needs, parsing, ranges, run_id
from recbole_mscgrec.config.protocol import (
    check_processes,
    check_protocol,
    choose_precision,
    complete_eval_args,
    processes_settings,
)
from recbole_mscgrec.config.removed import check_not_removed
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.checkpoint import to_plain
from recbole_mscgrec.storage.errors import UserError

_EXTERNAL = ("LightGBM", "XGBoost")  # models whose YAML files are named in lower case
_RECBOLE_PROPERTIES = Path(recbole.__file__).parent / "properties"

# Models that use the YAML file of another model.
_YAML_OF = {"MSCGRecTokenizer": "MSCGRec"}

# Keys that RecBole's code reads but none of its YAML files lists.
_RECBOLE_READS = (
    "benchmark_filename config_file config_files dataset encoding entity_embedding_size"
    " fields_in_same_table item_fields local_rank loss_type model mask_ratio neg_sampling nproc"
    " numerical_features offset pre_model_path preload_weight reg_weight seq_len transform"
    " user_fields training_neg_sample_num world_size ip port LABEL_FIELD MASK_ITEM_SEQ ITEM_SEQ"
    " POS_ITEMS NEG_ITEMS MASK_INDEX"
).split()


def properties_folder() -> Path:
    """The folder of the YAML files: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent.parent  # the package
    for folder in (here / "properties", here.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"properties/overall.yaml is neither in {here} nor beside it: the installation is "
        "incomplete, reinstall with `pip install .`"
    )


class Config(recbole.config.Config):
    """RecBole's Config with this project's properties.

    Args:
        model, dataset, config_file_list, config_dict: as RecBole's.
        typed: settings whose values are used as they are; strings in `config_dict` are parsed as
            numbers, lists and so on (`parsing.parse_value`). `config_dict` overrides them.

    Raises:
        UserError: a key is unknown (a similar key is suggested), or a value has the wrong type.
    """

    def __init__(
        self,
        model: str | None = None,
        dataset: str | None = None,
        config_file_list: list[str] | None = None,
        config_dict: dict[str, Any] | None = None,
        typed: dict[str, Any] | None = None,
    ) -> None:
        self._typed = typed or {}
        self.preset: dict[str, Any] = {}  # see presets.resolve
        self.protocol = ""  # see model_needs.choose_protocol
        self.uncut: dict[str, Any] = {}  # see compat.catalogue.cut_lists
        super().__init__(model, dataset, config_file_list, config_dict)
        self.chosen_keys = frozenset(self.external_config_dict)  # by the user; see config_of_saved
        self.names_the_run = {key: to_plain(self[key]) for key in self.training_keys if key in self}

    def _build_yaml_loader(self) -> type:
        return parsing.FastLoader

    def _load_config_files(self, file_list: list[str] | None) -> dict[str, Any]:
        return parsing.read_mappings(file_list or [])

    def _load_variable_config_dict(self, config_dict: dict[str, Any] | None) -> dict[str, Any]:
        return self._typed | parsing.parse_values(config_dict or {})

    def _load_cmd_line(self) -> dict[str, Any]:
        """Do nothing: `cli.main` reads the command line, and a program that calls `run` may have
        its own options."""
        return {}

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> tuple[str, type, str]:
        if isinstance(model, str):
            check_model_name(model)
        return super()._get_model_and_dataset(model, dataset)

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        theirs = _RECBOLE_PROPERTIES / "model" / f"{model}.yaml"
        if model in _EXTERNAL:
            theirs = theirs.with_name(f"{model.lower()}.yaml")
            self._update_internal_config_dict(str(theirs))
        load_col = self.internal_config_dict["load_col"]
        folder = properties_folder()
        self._known = set(self.internal_config_dict) | set(_recbole_keys(self))
        ours = folder / "model" / f"{_YAML_OF.get(model, model)}.yaml"
        for path in (folder / "overall.yaml", ours, folder / "dataset" / f"{dataset}.yaml"):
            if path.is_file():
                self._update_internal_config_dict(str(path))
        # RecBole's files for a kind of models name columns of other files than .inter.
        self.internal_config_dict["load_col"] = load_col | self.internal_config_dict["load_col"]
        self._rules = ranges.rules_of(p for p in (folder / "overall.yaml", ours) if p.is_file())
        of_model = [parsing.read_settings(path) or {} for path in (theirs, ours) if path.is_file()]
        self.training_keys = run_id.training_keys(key for keys in of_model for key in keys)
        self._known |= set(self.internal_config_dict)
        self._known |= set(_all_project_keys(folder))
        if (
            self.internal_config_dict["MODEL_TYPE"] == ModelType.SEQUENTIAL
            and self._get_final_config_dict().get("loss_type") == "CE"
        ):
            # Cross-entropy over all items needs no negatives; RecBole's default samples one.
            self.internal_config_dict["train_neg_sample_args"] = None
        self._check_external_keys(model)

    def _set_default_parameters(self) -> None:
        ranges.check(self.final_config_dict, self._rules)
        self._folder = Path(self.final_config_dict["data_path"]) / self.dataset
        if self.dataset == "ml-100k":  # RecBole reads it from its own folder
            self._folder = _RECBOLE_PROPERTIES.parent / "dataset_example" / self.dataset
        self.protocol = model_needs.choose_protocol(self, self._columns_of)
        settings, ours = self.final_config_dict, self.internal_config_dict["eval_args"]
        settings["eval_args"] = complete_eval_args(settings["eval_args"], ours)
        check_protocol(settings)
        super()._set_default_parameters()
        self._find_fields()
        model_needs.load_columns(self, self._columns_of)

    def _init_device(self) -> None:
        settings, given = self.final_config_dict, self.external_config_dict
        check_processes(settings, given)
        if settings["use_gpu"] is False:  # RecBole ignores it here
            settings["gpu_id"] = ""
        if processes.count() == 1:
            super()._init_device()
        else:
            chosen = "gpu_id" in given or settings["use_gpu"] is False
            settings |= processes_settings(settings["gpu_id"] if chosen else None)
        choose_precision(settings)

    def _find_fields(self) -> None:
        """Find the columns of user, item and time if the settings do not name them and the .inter
        file has no columns with RecBole's default names. For a data set without a properties file,
        load these columns."""
        settings, chosen = self.final_config_dict, self.external_config_dict
        wanted = {key: settings[key] for key in data_fields.NAMES}
        columns = list(self._columns_of("inter"))
        open_ones = {key: name for key, name in wanted.items() if key not in chosen}
        self.found_fields = data_fields.find_fields(columns, open_ones)
        settings.update(self.found_fields)
        name = f"{self.dataset}.yaml"
        described = any(
            (folder / "dataset" / name).is_file()
            for folder in (_RECBOLE_PROPERTIES, properties_folder())
        )
        if not described and "load_col" not in chosen:
            *fields, time = (settings[key] for key in wanted)
            if time in columns or not columns or "TIME_FIELD" in chosen:
                fields.append(time)  # else rows keep the order of the file
            histories = f"{settings['ITEM_ID_FIELD']}{settings['LIST_SUFFIX']}"
            if settings["benchmark_filename"] and histories in columns:
                fields.append(histories)
            settings["load_col"] = {"inter": fields}
        if settings["unload_col"] and "load_col" not in chosen:  # all columns but these
            everything = dict.fromkeys(settings["unload_col"], "*")
            settings["load_col"] = (settings["load_col"] or {}) | everything

    def _columns_of(self, suffix: str) -> dict[str, str]:
        """Column -> type of an atomic file, or of the first part of a split .inter file; empty if
        there is no such file."""
        settings = self.final_config_dict
        parts = (settings["benchmark_filename"] if suffix == "inter" else None) or [""]
        name = f"{self.dataset}.{parts[0]}.{suffix}" if parts[0] else f"{self.dataset}.{suffix}"
        if not (self._folder / name).is_file():
            return {}
        encoding = settings.get("encoding")
        return data_fields.header_of(self._folder / name, settings["field_separator"], encoding)

    def _check_external_keys(self, model: str) -> None:
        for key, value in self.external_config_dict.items():
            check_not_removed(key)
            if key not in self._known:
                raise unknown_setting(key, self._known, model)
            if key not in self._rules or not self._rules[key].decides():
                check_type(key, value, self.internal_config_dict.get(key))


class Settings(dict):
    """The settings of a second model in a run; None for missing keys, as in RecBole's Config."""

    def __missing__(self, key: str) -> None:
        return None


def unknown_setting(key: str, known: Iterable[str], model: str) -> UserError:
    """The error for a key that is not in `known`, with a similar known key."""
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    hint = f": did you mean {near[0]}?" if near else "."
    return UserError(f"{key} is not a setting of RecBole or of {model}{hint}")


def known_settings(model: str, dataset: str) -> frozenset[str]:
    """Every key that a run of this model accepts. Raises UserError for an unknown model."""
    return frozenset(Config(model, dataset)._known)


def check_model_name(name: str) -> None:
    """Raise UserError if neither RecBole nor a plugin has this model."""
    families = ("general", "context_aware", "sequential", "knowledge_aware", "exlib")
    for family in families:
        module = f"recbole.model.{family}_recommender"
        try:
            if importlib.util.find_spec(f"{module}.{name.lower()}") is None:
                continue
            if hasattr(importlib.import_module(f"{module}.{name.lower()}"), name):
                return
        except ModuleNotFoundError:  # a family whose own requirements are not installed
            if name in _EXTERNAL:
                return  # the error comes when the model is imported
    folders = (
        _RECBOLE_PROPERTIES / "model",
        properties_folder() / "model",
    )
    known = {path.stem for folder in folders for path in folder.glob("*.yaml")} | set(_YAML_OF)
    if name not in known:
        near = [other for other in sorted(known) if other.lower() == name.lower()]
        near = near or difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "see RecBole's list of models."
        raise UserError(f"model {name!r} is not known: {hint}")


def check_type(key: str, value: Any, default: Any) -> None:
    """Raise UserError if `value` has another type than the default of the key."""
    if default is None or value is None:
        return
    allowed: tuple[type, ...]
    if isinstance(default, bool):
        allowed = (bool,)
    elif isinstance(default, int):
        # One number or a list of numbers (per level, per k); the code that uses it checks which.
        allowed = (int, list, tuple)
    elif isinstance(default, float):
        allowed = (int, float)
    elif isinstance(default, (list, tuple)):
        allowed = (list, tuple, str, int)
    elif isinstance(default, dict):
        allowed = (dict,)
    elif key == "additional_feat_suffix":
        allowed = (str, list)
    elif key == "gpu_id":
        allowed = (int, str, tuple)
    else:
        allowed = (str,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UserError(
            f"{key} must be {' or '.join(t.__name__ for t in allowed)} (default {default!r}), "
            f"not {type(value).__name__} {value!r}."
        )


def _recbole_keys(config: recbole.config.Config) -> list[str]:
    keys = [*_RECBOLE_READS, *config.parameters["Dataset"]]
    for name in ("general", "training", "evaluation", "dataset"):
        keys += getattr(argument_list, f"{name}_arguments")
    return keys


def _all_project_keys(folder: Path) -> list[str]:
    """The keys of overall.yaml and of all data set files, which describe data of any name."""
    keys: list[str] = []
    for path in (folder / "overall.yaml", *sorted(folder.glob("dataset/*.yaml"))):
        keys += parsing.read_settings(path)
    return keys
