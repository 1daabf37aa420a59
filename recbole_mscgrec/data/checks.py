"""Checks, before anything slow, that the data exist and have what sequential models need."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

import psutil
from recbole.utils import EvaluatorType, ModelType

from recbole_mscgrec.config.data_fields import header_of
from recbole_mscgrec.config.model_needs import by_features
from recbole_mscgrec.config.protocol import LABELED
from recbole_mscgrec.config.ranges import check_interval
from recbole_mscgrec.config.validation import FIT
from recbole_mscgrec.data import saved_data
from recbole_mscgrec.data.parts import list_field
from recbole_mscgrec.data.tiled_rows import TiledDataset
from recbole_mscgrec.storage.errors import UserError

# Models, beside the feature-based ones, that learn from labels if no negatives are sampled.
_LEARN_FROM_LABELS = frozenset("DIEN DIN DMF FISM MKR NAIS NeuMF NNCF RippleNet".split())
# RecBole applies these to NAME.inter only. `filter_inter_by_user_or_item` is on by default.
_FILTERS = (
    "val_interval user_inter_num_interval item_inter_num_interval rm_dup_inter"
    " entity_kg_num_interval relation_kg_num_interval"
).split()
_ALL = ("[0,inf)", "[1,inf)")  # intervals that drop nothing


def check_data(config: Any) -> None:
    """Check that the data set exists and has the columns named in the settings.

    Raises:
        UserError: no .inter file; no user, item or time column; a filter's column that is not
            loaded; a `threshold` for labels that nothing reads; a filter of pre-split data; a split
            that leaves nothing to test; or a setting that saves data.
    """
    saved_data.check(config)
    _check_split(config)
    _check_threshold(config)
    for suffix in config["unload_col"] or {}:
        if (config["load_col"] or {}).get(suffix, "*") != "*":
            raise UserError(
                f"load_col ({config['load_col']}) and unload_col ({config['unload_col']}) both "
                f"name columns of the .{suffix} file: leave one of them out."
            )
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = config["benchmark_filename"]
    if parts and (isinstance(parts, str) or len(parts) != 3):
        raise UserError(
            f"benchmark_filename ({parts!r}) must name three parts, for training, validation and "
            f"test, such as ['train', 'valid', 'test'] for {name}.train.inter and so on."
        )
    if parts:
        _check_no_filters(config)
    files = [folder / f"{name}.{part}.inter" for part in parts or []]
    for inter in files or [folder / f"{name}.inter"]:
        if not inter.is_file():
            raise UserError(
                f"{inter} does not exist: put the data set's atomic files into {folder}."
            )
        _check_columns(config, inter)
    headers = [header_of(file, config["field_separator"], config["encoding"]) for file in files]
    for file, header in zip(files, headers, strict=True):
        if differ := sorted({*dict(header.items() ^ headers[0].items())}):
            raise UserError(
                f"{file} and {files[0].name} differ in the column{'s' * (len(differ) > 1)} "
                f"{', '.join(differ)}: all parts need the same columns of the same types."
            )


def _check_columns(config: Any, inter: Path) -> None:
    columns = list(header_of(inter, config["field_separator"], config["encoding"]))
    if config.found_fields:
        found = ", ".join(f"{key} {column}" for key, column in config.found_fields.items())
        getLogger().info(f"{inter.name} does not have RecBole's default column names: {found}.")
    if config.protocol:
        getLogger().info(config.protocol)
    needed, time = ["USER_ID_FIELD", "ITEM_ID_FIELD"], config["TIME_FIELD"]
    loaded = _loaded(config, "inter", columns)
    strange = sorted({*(config["unload_col"] or {}).get("inter", [])} - {*columns})
    if strange:
        raise UserError(
            f"unload_col names {', '.join(strange)} of {inter}, which has {', '.join(columns)}."
        )
    label = config["LABEL_FIELD"]
    if LABELED in config["eval_args"]["mode"].values() and not config["threshold"]:
        if label not in loaded:
            raise UserError(
                f"eval_args mode labeled needs labels, and the loaded columns of {inter} are "
                f"{', '.join(loaded)}. Load the column {label} (LABEL_FIELD), or make labels from "
                "another one, such as --threshold=\"{'rating': 4}\"."
            )
    ordered = config["MODEL_TYPE"] == ModelType.SEQUENTIAL or config["eval_args"]["order"] == "TO"
    if config["benchmark_filename"] and list_field(config) in loaded:
        ordered = False  # each row has its history
    if ordered and (time in columns or "TIME_FIELD" in config.chosen_keys):
        needed.append("TIME_FIELD")  # a file without a time column keeps the order of its rows
    for key in needed:
        if config[key] not in columns:
            raise UserError(
                f"{inter} has no column {config[key]!r} ({key}); it has {', '.join(columns)}. "
                f"Name the right one with --{key}=..., or add the column."
            )
    _warn_of_labels(config, inter, columns)
    for key in needed:
        if config[key] not in loaded:
            why = "which orders the sequences: " if key == "TIME_FIELD" else ""
            raise UserError(
                f"load_col reads {loaded} of {inter} but not {config[key]!r} ({key}), {why}"
                "add it to load_col, or take it out of unload_col."
            )
    _check_filters(config, inter, loaded)


def _loaded(config: Any, suffix: str, columns: list[str]) -> list[str]:
    """Those columns of a file that `load_col` and `unload_col` let RecBole load."""
    load, unload = config["load_col"], (config["unload_col"] or {}).get(suffix, [])
    chosen = "*" if load is None else load.get(suffix, [])
    return [c for c in columns if (chosen == "*" or c in chosen) and c not in unload]


def _check_filters(config: Any, inter: Path, loaded: list[str]) -> None:
    """Check that the columns of `val_interval` and `threshold` are loaded, and that the intervals
    are valid. RecBole only warns about what it cannot read, and ignores it."""
    types: dict[str, str] = {}
    owner: dict[str, str] = {}  # column -> the suffix of its file; .inter wins if two files have it
    for suffix in ("item", "user", "inter"):
        file = inter.with_name(f"{config['dataset']}.{suffix}") if suffix != "inter" else inter
        if file.is_file() and config["val_interval"]:
            header = header_of(file, config["field_separator"], config["encoding"])
            owner |= dict.fromkeys(header, suffix)
            types |= {column: header[column] for column in _loaded(config, suffix, list(header))}
    for key, there in (("threshold", loaded), ("val_interval", [*types])):
        for field in config[key] or {}:
            if field not in there:
                load = {"inter": loaded} | (config["load_col"] or {})
                suffix = owner.get(field, "inter") if key == "val_interval" else "inter"
                if load.get(suffix) != "*":
                    load[suffix] = [*load.get(suffix, []), field]
                raise UserError(
                    f"{key} reads the column {field!r}, which is not loaded; the loaded columns "
                    f'are {", ".join(there)}. Add it to load_col, such as --load_col="{load}".'
                )
    for field, chosen in (config["val_interval"] or {}).items():
        is_time = field == config["TIME_FIELD"] and owner[field] == "inter"  # read as numbers
        _check_values(field, chosen, "float" if is_time else types[field])


def _check_values(field: str, chosen: Any, kind: str) -> None:
    """Raise UserError if `val_interval` cannot filter a column of this type by `chosen`."""
    told = f"val_interval of {field} ({chosen!r}): the column is of type {kind}, and "
    if kind == "float":
        check_interval(f"val_interval of {field}", chosen)
    elif kind != "token":
        raise UserError(f"{told}RecBole filters only by columns of type float or token.")
    elif not isinstance(chosen, (list, tuple)):
        raise UserError(f"{told}its values are given as a list, such as ['a', 'b'].")
    elif strange := [value for value in chosen if not isinstance(value, str)]:
        raise UserError(
            f"{told}its values are strings, which {strange[0]!r} never equals: put it in quotes, "
            f"such as {[str(value) for value in chosen]}."
        )


def _check_no_filters(config: Any) -> None:
    """Refuse the user's filters of pre-split data, which have no effect. For filters from the data
    set's properties, warn."""
    for key in _FILTERS:
        if not config[key] or str(config[key]).replace(" ", "") in _ALL:
            continue
        told = (
            f"{key} ({config[key]}) has no effect with benchmark_filename "
            f"({config['benchmark_filename']}), whose parts RecBole does not filter: filter the "
            "files themselves, and "
        )
        if key in config.chosen_keys:
            _refuse(config, f"{told}leave {key} out.")
        else:
            getLogger().warning(f"{told}set {key} to None.")


def _check_threshold(config: Any) -> None:
    """Refuse a `threshold` whose labels nothing reads: it does not filter."""
    labeled = LABELED in config["eval_args"]["mode"].values()
    learns = by_features(config["MODEL_TYPE"]) or config["model"] in _LEARN_FROM_LABELS
    sampled = config["train_neg_sample_args"]["distribution"] != "none"  # which replaces labels
    if not config["threshold"] or labeled or (learns and not sampled):
        return
    wanted = {field: f"[{least},inf)" for field, least in config["threshold"].items()}
    _refuse(
        config,
        f"threshold ({config['threshold']}) makes labels, and {config['model']} reads none here: "
        "all rows would count as interactions. To keep only the rows from this value on, "
        + (
            "take the others out of the files, and leave threshold out."
            if config["benchmark_filename"]
            else f'use --val_interval="{wanted}" instead.'
        ),
    )


def _refuse(config: Any, told: str) -> None:
    """Refuse a setting that has no effect. A saved model that was trained with it stays usable."""
    if not config["model_file"]:
        raise UserError(told)
    getLogger().warning(told)


def _check_split(config: Any) -> None:
    split = config["eval_args"]["split"]
    if isinstance(split, dict) and split.get("LS") == "valid_only":
        raise UserError(
            "eval_args with LS: valid_only leaves no interaction to test, and a run ends with a "
            "test: use valid_and_test, or test_only."
        )


def check_memory(config: Any, data: Any) -> None:
    """Check that the histories of the data set fit into memory, each with MAX_ITEM_LIST_LENGTH item
    ids: RecBole's sequential models hold one per target, `TiledDataset` those of a batch.

    Raises:
        UserError: they need more memory than is available.
    """
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        return
    n_rows, length = data.inter_num - data.user_num + 1, config["MAX_ITEM_LIST_LENGTH"]
    if isinstance(data, TiledDataset):
        largest = max(config["train_batch_size"], config["eval_batch_size"])
        n_rows = min(largest, data.user_num - 1)
    needed, free = 8 * n_rows * length, psutil.virtual_memory().available  # int64
    if needed > free:
        raise UserError(
            f"MAX_ITEM_LIST_LENGTH ({length}): {n_rows:,} histories of this length need "
            f"{needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are available: "
            "lower it."
        )


def check_validated(config: Any, n_batches: int, searches: bool) -> None:
    """Raise UserError if there are no batches of validation, but a search of settings, or
    `rescore_weight: fit`, chooses by it."""
    fits = config["rescore_model"] and config["rescore_weight"] == FIT
    if not n_batches and (searches or fits):
        raise UserError(
            f"{'A search' if searches else 'rescore_weight=fit'} needs validation, for which "
            f"eval_args split ({config['eval_args']['split']}) leaves no row: split otherwise."
        )


def _warn_of_labels(config: Any, inter: Path, columns: list[str]) -> None:
    """Warn about a label column. Such files also list items that users did not click (MIND), and
    every row counts as an interaction unless `val_interval` filters them."""
    label = config["LABEL_FIELD"]
    chosen = config["val_interval"] or {}
    if label in columns and label not in chosen and config["eval_type"] == EvaluatorType.RANKING:
        loaded = _loaded(config, "inter", columns)
        load = "" if label in loaded else f" --load_col=\"{{'inter': {[*loaded, label]}}}\""
        getLogger().warning(
            f"{inter.name} has a column {label!r}, and all of its rows count as interactions. To "
            "keep the positive ones: "
            + (
                "take the others out of the files."  # RecBole does not filter pre-split data
                if config["benchmark_filename"]
                else f"--val_interval=\"{{'{label}': '[1,1]'}}\"{load}"
            )
        )
