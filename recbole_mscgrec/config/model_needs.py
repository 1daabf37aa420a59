"""The columns and the protocol of RecBole's models that read features of items and users, knowledge
graphs or labels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import recbole
import recbole.data.dataset
from recbole.data.dataset import KnowledgeBasedDataset
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_mscgrec.config import parsing
from recbole_mscgrec.config.protocol import complete_eval_args
from recbole_mscgrec.storage.errors import UserError

# Suffix of an atomic file -> column -> type; empty if there is no such file.
Columns = Callable[[str], dict[str, str]]

_LABELLED = Path(recbole.__file__).parent / "properties/quick_start_config/context-aware.yaml"
_FEATURES_OF_ITEMS = ("selected_features", "item_attribute")
# Columns of text, in which a feature-based model would treat every word as a feature.
_PROSE = frozenset(
    """title movie_title description plot overview synopsis abstract summary text content review
    headline caption features""".split()
)


def by_features(kind: ModelType) -> bool:
    """Whether models of this type learn from features and labels."""
    return kind in (ModelType.CONTEXT, ModelType.DECISIONTREE)


def choose_protocol(config: Any, columns: Columns) -> str:
    """Set how a feature-based model is trained and evaluated: on the labels of the data if there
    are any, else on sampled negatives with the protocol of the other models. Settings chosen by the
    user are kept.

    Returns:
        A message for the user; '' for other models.

    Raises:
        UserError: a threshold for labels together with ranking metrics, or a model that needs
            labels and data without them.
    """
    settings, chosen = config.final_config_dict, config.external_config_dict
    if not by_features(settings["MODEL_TYPE"]):
        return ""
    label = settings["LABEL_FIELD"]
    trees = settings["MODEL_TYPE"] == ModelType.DECISIONTREE
    ranks = _asked_for(chosen, EvaluatorType.RANKING)
    if ranks and chosen.get("threshold"):
        raise UserError(
            f"threshold ({chosen['threshold']}) makes labels, which AUC and LogLoss measure, and "
            f"{ranks} ranks items: leave one of them out."
        )
    source = settings["threshold"] or (label if label in columns("inter") else None)
    if source is None or (ranks and not trees):
        if trees:
            raise UserError(
                f"{config.model} learns from labels, and the .inter file has no column {label!r} "
                "(LABEL_FIELD). Make them from another column: --threshold=\"{'rating': 4}\"."
            )
        negatives = {"distribution": "uniform", "sample_num": 1}
        _default(config, {"threshold": None, "train_neg_sample_args": negatives})
        task = "ranks all items"
        if _asked_for(chosen, EvaluatorType.VALUE) and not ranks:
            evaluated = {**settings["eval_args"], "mode": "uni100"}
            _default(config, {**_measured_by_values(), "eval_args": evaluated})
            task = "ranks each target among 100 sampled items"
        why = f"{ranks} ranks items" if source else "the data have no labels"
        return (
            f"{config.model} learns from the interactions and one sampled negative each, and "
            f"{task}, because {why}."
        )
    _default(config, parsing.read_settings(_LABELLED))
    return (
        f"{config.model} learns from the labels of the data ({source}): a random split, measured "
        f"by {' and '.join(settings['metrics'])}. To rank all items instead, choose "
        "--valid_metric=NDCG@10."
    )


def _measured_by_values() -> dict[str, Any]:
    labelled = parsing.read_settings(_LABELLED)
    return {key: labelled[key] for key in ("metrics", "valid_metric")}


def _asked_for(chosen: dict[str, Any], type_of_metrics: EvaluatorType) -> str:
    """The user's setting that requires this type of metrics, or '' if there is none."""
    for key in ("valid_metric", "metrics"):
        names = chosen.get(key) or []
        for name in [names] if isinstance(names, str) else names:
            kind = metric_types.get(str(name).partition("@")[0].lower())
            if kind == type_of_metrics:
                return f"{key} ({chosen[key]})"
    if type_of_metrics != EvaluatorType.RANKING:
        return ""
    mode = (chosen.get("eval_args") or {}).get("mode", "labeled")
    if set(mode.values() if isinstance(mode, dict) else [mode]) != {"labeled"}:
        return f"eval_args ({chosen['eval_args']})"
    negatives = chosen.get("train_neg_sample_args")
    return f"train_neg_sample_args ({negatives})" if negatives else ""


def _default(config: Any, settings: dict[str, Any]) -> None:
    """Apply these settings except where the user chose a value; `eval_args` part by part."""
    chosen = config.external_config_dict
    config.final_config_dict.update({k: v for k, v in settings.items() if k not in chosen})
    if "eval_args" in settings and "eval_args" in chosen:
        completed = complete_eval_args(chosen["eval_args"], settings["eval_args"])
        config.final_config_dict["eval_args"] = completed


def load_columns(config: Any, columns: Columns) -> None:
    """Add to `load_col` the columns that the model reads beside user, item and time.

    Raises:
        UserError: a column does not exist, has a type that the model does not read, or is missing
            from the user's `load_col`.
    """
    settings, load = config.final_config_dict, config.final_config_dict["load_col"]
    if not columns("inter"):  # not downloaded yet; this is called again afterwards
        return
    needed = _features_of_items(config, columns)
    if _has_graph(config):
        for suffix, keys in (
            ("kg", ("HEAD_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD")),
            ("link", ("ITEM_ID_FIELD", "ENTITY_ID_FIELD")),
        ):
            needed[suffix] = [settings[key] for key in keys]
    for suffix in settings["additional_feat_suffix"] or []:
        needed[suffix] = ["*"]
    label, threshold = settings["LABEL_FIELD"], settings["threshold"]
    if by_features(settings["MODEL_TYPE"]) and not settings["train_neg_sample_args"]:
        needed["inter"] = list(threshold or [label])
    if load is not None:
        settings["load_col"] = _with(needed, config, load)
    if by_features(settings["MODEL_TYPE"]):
        _load_features(config, columns)


def _with(needed: dict[str, list[str]], config: Any, load: dict[str, Any]) -> dict[str, Any]:
    """`load` plus the needed columns. Raises UserError if the user's own `load` lacks some."""
    lacking = {suffix: _lacking(load, suffix, names) for suffix, names in needed.items()}
    more: dict[str, Any] = {
        suffix: "*" if names == ["*"] else [*load.get(suffix, []), *names]
        for suffix, names in lacking.items()
        if names
    }
    if more and "load_col" in config.external_config_dict:
        told = ", ".join(f"{name} of the .{s} file" for s in more for name in lacking[s])
        raise UserError(
            f"load_col ({load}) leaves out {told}, which {config.model} reads: "
            f'--load_col="{ {**load, **more} }"'
        )
    return {**load, **more}


def _lacking(load: dict[str, Any], suffix: str, names: list[str]) -> list[str]:
    held = load.get(suffix, [])
    if held == "*" or (held and names == ["*"]):
        return []
    return [name for name in names if name not in held]


def _has_graph(config: Any) -> bool:
    of_model = getattr(recbole.data.dataset, f"{config.model}Dataset", None)
    return config.final_config_dict["MODEL_TYPE"] == ModelType.KNOWLEDGE or (
        of_model is not None and issubclass(of_model, KnowledgeBasedDataset)
    )


def _features_of_items(config: Any, columns: Columns) -> dict[str, list[str]]:
    """The columns of the .item file that the model's settings name."""
    settings, there = config.final_config_dict, columns("item")
    key = next((key for key in _FEATURES_OF_ITEMS if key in settings), None)
    if key is None:
        return {}
    names = settings[key] if isinstance(settings[key], list) else [settings[key]]
    item = settings["ITEM_ID_FIELD"]
    wanted = ("token_seq",) if key == "item_attribute" else ("token", "token_seq", "float")
    for name in names:
        if there.get(name) not in wanted:
            fit = [n for n, kind in there.items() if kind in wanted and n != item]
            has = f"is {there[name]}" if name in there else "is not in the .item file"
            raise UserError(
                f"{key} ({settings[key]}): {name!r} {has}, and {config.model} reads columns of "
                f"type {' or '.join(wanted)}. There {'is' if len(fit) == 1 else 'are'} "
                f"{', '.join(fit) or 'none'}: choose with --{key}=..."
            )
    _use_numbers(config, names, there)
    return {"item": [item, *names]}


def _load_features(config: Any, columns: Columns) -> None:
    """Load the features of users and items for a feature-based model, unless the user or RecBole's
    settings of the data set choose the columns, and use the numeric ones."""
    settings, chosen = config.final_config_dict, config.external_config_dict
    for suffix in ("user", "item"):
        there, load = columns(suffix), settings["load_col"]
        unload = (settings["unload_col"] or {}).get(suffix, [])
        if there and load is not None and suffix not in load and "load_col" not in chosen:
            fit = [
                n for n, kind in there.items() if kind != "float_seq" and n.lower() not in _PROSE
            ]
            # RecBole accepts only one of load_col and unload_col per file.
            settings["load_col"] = load = {**load, suffix: "*" if unload else fit}
        names = "*" if load is None else load.get(suffix, [])
        names = [n for n in there if (names == "*" or n in names) and n not in unload]
        # Trees read the plain values, not RecBole's pairs of value and bucket.
        if settings["MODEL_TYPE"] == ModelType.CONTEXT and "numerical_features" not in chosen:
            _use_numbers(config, names, there)


def _use_numbers(config: Any, names: list[str], there: dict[str, str]) -> None:
    """Make the numeric ones of these columns `numerical_features`, scaled to [0, 1]. RecBole's
    layers silently ignore other numeric columns, and multiply an embedding by the raw number."""
    settings = config.final_config_dict
    held = list(settings["numerical_features"] or [])
    numbers = [name for name in names if there[name] == "float" and name not in held]
    settings["numerical_features"] = held + numbers
    if numbers and not settings["normalize_all"] and not settings["normalize_field"]:
        settings["normalize_field"] = numbers
