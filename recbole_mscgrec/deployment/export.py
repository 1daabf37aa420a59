"""From a saved model to an export folder: `recbole-mscgrec export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.deployment.exported_programs import programs_of
from recbole_mscgrec.features.text import read_items
from recbole_mscgrec.features.text_columns import clean_text
from recbole_mscgrec.new_items import generations
from recbole_mscgrec.new_items.kept_encoders import Kept, kept_encoders
from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.runner.quick_start import load_data_and_model
from recbole_mscgrec.semantic_ids.code_table import CodeTable
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_files import MANIFEST, read_manifest
from recbole_mscgrec.serving.export_folder import Export
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage import checkpoint, digest, files
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer.item_cards import check_columns, title_column
from recbole_mscgrec.transitions.model import Transitions


def export(
    model_file: str,
    folder: str | Path,
    config_dict: dict[str, Any] | None = None,
    overwrite: bool = False,
    new_items: bool = True,
    programs: bool = False,
) -> Export:
    """Write a saved model of MSCGRec to an export folder.

    Args:
        model_file: the checkpoint. The data set that it was trained on is read, too.
        folder: the export folder.
        config_dict: settings that override those in the checkpoint, such as `data_path`.
        overwrite: replace the export that the folder holds, as its next generation.
        new_items: keep what `add-items` needs.
        programs: also write the encoder and the decoder as programs of torch.export.

    Raises:
        UserError: the folder holds an export and `overwrite` is off, it cannot be written, another
            process is writing it, or the model cannot be exported (see `export_of`).
    """
    folder = Path(folder)
    files.check_folder(folder, "--out")
    with generations.claimed(folder):
        generation, history = 0, list[dict[str, Any]]()
        if (folder / MANIFEST).is_file():
            old = read_manifest(folder)
            if not overwrite:
                raise UserError(
                    f"{folder} holds an export of generation {old['generation']}: choose another "
                    "folder, or add --overwrite to replace it. Items added to it are lost "
                    "then, and removed ones are recommended again."
                )
            generation, history = old["generation"], old["history"]
        config, model, _, train = load_mscgrec(model_file, config_dict)
        made = export_of_loaded(config, model, train)
        kept = kept_encoders(model, train) if new_items else Kept({}, {})
        made = replace(made, generation=generation, history=history, new_items=kept.plan)
        made = export_folder.next_generation(made, "export", model_file=Path(model_file).name)
        export_folder.write(folder, made, {**kept.files, **(_programs(made) if programs else {})})
    return made


def add_programs(folder: str | Path) -> Export:
    """Write the programs of torch.export for the export in a folder, as its next generation. The
    other files stay as they are.

    Raises:
        UserError: the folder holds no export, or it cannot be written.
    """
    folder = Path(folder)
    with generations.opened(folder) as old:
        names, made = read_manifest(folder)["files"], _programs(old)
        new = export_folder.next_generation(old, "programs")
        unchanged = [name for name in names if name not in made]
        export_folder.write(folder, new, made, unchanged=unchanged)
    return new


def _programs(export: Export) -> dict[str, bytes]:
    return programs_of(Recommender(export).network, export.max_history, export.constrained)


def export_of(model_file: str, config_dict: dict[str, Any] | None = None) -> Export:
    """The export of a saved model.

    Raises:
        UserError: it is not an MSCGRec model, or it is set to be reranked by a second model.
    """
    config, model, _, train = load_mscgrec(model_file, config_dict)
    return export_of_loaded(config, model, train)


def load_mscgrec(
    model_file: str, config_dict: dict[str, Any] | None = None
) -> tuple[Any, MSCGRec, Any, Any]:
    """Config, model, data set and train split of a saved model of MSCGRec.

    Raises:
        UserError: it is another model, or its data set does not exist or has changed.
    """
    kind = checkpoint.load(model_file)["config"]["model"]
    if kind != "MSCGRec":
        raise UserError(
            f"{model_file} holds {kind}: only MSCGRec recommends by item token and can be exported."
        )
    config, model, dataset, train_data, *_ = load_data_and_model(model_file, config_dict)
    return config, model, dataset, train_data._dataset


def export_of_loaded(config: Any, model: MSCGRec, train: Any) -> Export:
    """The export of a loaded model, with its Config and its train split.

    Raises:
        UserError: the model is set to be reranked by a second model.
    """
    settings = model.settings
    if settings.decoding.rescore_model:
        raise UserError(
            "rescore_model is set, but a second model cannot be exported: set rescore_model to "
            "None to export MSCGRec alone."
        )
    plain, n_items = model.code_state, train.item_num
    return Export(
        table=CodeTable.from_plain(plain["table"]),
        # Only training replaces history items by their neighbours: an export must not.
        network=replace(settings.network, neighbour_prob=0.0),
        weights={name: w.cpu() for name, w in model.network.state_dict().items()},
        items=[str(token) for token in train.field2id_token[train.iid_field][1:]],
        titles=_titles(settings, train),
        popularity=torch.from_numpy(train.target_counts()).int(),
        removed=torch.zeros(n_items, dtype=torch.bool),
        added_in=torch.zeros(n_items, dtype=torch.int32),
        vectors={name: v.cpu() for name, v in plain["vectors"].items()},
        beam_size=settings.decoding.beam_size,
        constrained=settings.training.constrained_training,
        max_history=config["MAX_ITEM_LIST_LENGTH"],
        learned=plain["learned"],
        transitions=Transitions(**plain["transitions"]) if model.transitions else None,
        transition_weight=model.transition_weight,
        settings=checkpoint.to_plain(config.final_config_dict),
        made_by=digest.made_by(),
    )


def _titles(settings: MSCGRecSettings, train: Any) -> list[str] | None:
    """Titles of the items 1..N-1, '' for an item without one; None if no item has one."""
    items = read_items(settings.files, train)
    check_columns(settings, items)
    column = items and (settings.pages.title_column or title_column(items.types))
    if not items or not column:
        return None
    titles = items.frame.set_index(items.key)[column].map(clean_text)
    tokens = [str(token) for token in train.field2id_token[train.iid_field][1:]]
    return titles.reindex(tokens, fill_value="").tolist()
