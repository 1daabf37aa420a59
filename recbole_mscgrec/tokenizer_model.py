"""`--model=MSCGRecTokenizer`: the tokenizers alone, as a model that RecBole can run."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from recbole.model.abstract_recommender import SequentialRecommender
from recbole.trainer import Trainer

from recbole_mscgrec.tokenizer import tokenize


class MSCGRecTokenizer(SequentialRecommender):
    """Builds (or reuses) every item's codes and reports their health; recommends nothing."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        tokens = tokenize(config, dataset)
        self.table = tokens.table
        self.code_health, self.stage_seconds = tokens.health, tokens.seconds
        self.code_state, self.other_parameter_name = tokens.to_plain(), ["code_state"]


class MSCGRecTokenizerTrainer(Trainer):
    """Saves the code table as a checkpoint; its result is the health of the codes."""

    def _build_optimizer(self, **kwargs: Any) -> None:
        """There is nothing to optimize: the tokenizers are trained when the model is built."""

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> tuple[float, dict[str, float]]:
        """Write the code table to the checkpoint file. Returns (0, {}): nothing is validated."""
        self.best_valid_score, self.best_valid_result = 0.0, {}
        self._save_checkpoint(0)
        return self.best_valid_score, self.best_valid_result

    def evaluate(self, *args: Any, **kwargs: Any) -> OrderedDict:
        """Share of items alone with their code, and perplexity per level, of every modality."""
        result = OrderedDict()
        for name, health in self.model.code_health.items():
            result[f"alone_share@{name}"] = health["alone_share"]
            for level, values in enumerate(health["levels"]):
                result[f"perplexity@{name}_{level}"] = values["perplexity"]
        return result
