"""`--model=MSCGRecTokenizer`: only the tokenizers, as a model that RecBole can run."""

from __future__ import annotations

import json
from collections import OrderedDict
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.model.abstract_recommender import SequentialRecommender
from recbole.trainer import Trainer

from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.storage import checkpoint, files, processes
from recbole_mscgrec.tokenizer import code_page
from recbole_mscgrec.tokenizer.item_cards import Cards, item_cards
from recbole_mscgrec.tokenizer.pipeline import Tokenization, from_checkpoint, tokenize_once


class MSCGRecTokenizer(SequentialRecommender):
    """Makes (or reuses) the codes of all items, or takes those of the saved model `model_file`.
    It writes the codes, their health report, and pages that show which items share a code, and
    recommends nothing."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = MSCGRecSettings.of(config, dataset)
        # Do what can fail before the tokenizers are trained.
        folder, cards = codes_folder(settings), item_cards(settings, dataset)
        made_with = config.final_config_dict
        if settings.run.model_file:
            state = checkpoint.load(settings.run.model_file)
            tokens = from_checkpoint(state, dataset, settings.run.model_file)
            made_with = state["config"] | (state.get("settings") or {})
        else:
            tokens = tokenize_once(settings, dataset)
        self.table = tokens.table
        self.code_health, self.stage_seconds = tokens.health, tokens.seconds
        self.code_state, self.other_parameter_name = tokens.to_plain(), ["code_state"]
        if processes.is_first():
            write_codes(folder, tokens, cards, made_with)


def codes_folder(settings: MSCGRecSettings) -> Path:
    """The output folder: `codes_dir`, or codes/DATASET in the checkpoint folder. It is created if
    needed.

    Raises:
        UserError: the folder cannot be written.
    """
    default = Path(settings.run.checkpoint_dir) / "codes" / settings.files.name
    folder = Path(settings.pages.dir or default)
    files.check_folder(folder, "codes_dir")
    return folder


def write_codes(folder: Path, tokens: Tokenization, cards: Cards, settings: dict[str, Any]) -> None:
    """Write codes_NAME.json ({item token: [codes]}, which `codes_file` reads) and the page
    codes_NAME.html for each modality, and one health.json.

    Raises:
        UserError: a file cannot be written.
    """
    files.write_json(folder / "health.json", tokens.health)
    for name, health in tokens.health.items():
        page = code_page.page_data(tokens.table, health, name, cards, settings)
        codes = code_page.codes_of(tokens.table, name)
        by_token = {t: c for t, c in zip(cards.tokens, codes, strict=True) if c is not None}
        lines = ",\n".join(f"  {json.dumps(t)}: {json.dumps(c)}" for t, c in by_token.items())
        files.write_text(folder / f"codes_{name}.json", f"{{\n{lines}\n}}\n")
        file = folder / f"codes_{name}.html"
        files.write_text(file, code_page.render(page))
        getLogger().info(f"{name}: see which items share a code at {file.resolve().as_uri()}")
    getLogger().info(f"Codes (codes_NAME.json, for codes_file) and health.json are in {folder}.")


class MSCGRecTokenizerTrainer(Trainer):
    """Saves the code table as a checkpoint; the evaluation reports the health of the codes."""

    def _build_optimizer(self, **kwargs: Any) -> None:
        """Nothing to optimize: the tokenizers are trained when the model is created."""

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> tuple[float, dict[str, float]]:
        """Write the code table to the checkpoint file. Returns (0, {}): nothing is validated."""
        nothing: dict[str, float] = {}
        self.best_valid_score, self.best_valid_result = 0.0, nothing
        self._save_checkpoint(0)
        return self.best_valid_score, nothing

    def evaluate(self, *args: Any, **kwargs: Any) -> OrderedDict:
        """The share of items alone with their code, and the perplexity of each level, for every
        modality."""
        result = OrderedDict()
        for name, health in self.model.code_health.items():
            result[f"alone_share@{name}"] = health["alone_share"]
            for level, values in enumerate(health["levels"]):
                result[f"perplexity@{name}_{level}"] = values["perplexity"]
        return result
