"""The settings of MSCGRec as one typed object, built and validated once.

properties/model/MSCGRec.yaml explains the fields; its keys have the prefix of the group
(`text_encoder` for `encoder`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from recbole_mscgrec.config import presets, validation
from recbole_mscgrec.network.model import Sizes
from recbole_mscgrec.rq_dino.settings import CONFIGURABLE, RQDinoSettings

Group = TypeVar("Group")


@dataclass(frozen=True)
class DataFiles:
    """The atomic files of a data set and their format."""

    folder: Path
    name: str
    separator: str
    encoding: str

    def file(self, suffix: str) -> Path:
        """The file with this suffix: 'inter', 'item', ..."""
        return self.folder / f"{self.name}.{suffix}"


@dataclass(frozen=True)
class RunSettings:
    """Settings that all stages share, and the saved model that a run uses."""

    seed: int
    reproducibility: bool
    device: torch.device
    show_progress: bool
    matmul_precision: str
    cache_dir: str
    checkpoint_dir: str
    log_dir: str
    model_file: str | None  # evaluate it instead of training
    initial_model: str | None  # start training from its weights and codes


@dataclass(frozen=True)
class CodeSettings:
    """Semantic IDs: the modalities, and how vectors become codes."""

    modalities: tuple[str, ...]
    target_modality: str
    level_sizes: tuple[int, ...]  # from n_levels and codebook_size
    collision: str
    quantizer_iterations: int
    vectors_file: dict[str, str]
    codes_file: dict[str, str]
    history_vectors: bool
    history_vectors_chosen: bool  # set by the user, not by the preset for sparse data


@dataclass(frozen=True)
class TextSettings:
    """Item texts and their vectors."""

    encoder: str
    tfidf_size: int
    batch_size: int
    max_length: int
    columns: tuple[str, ...] | None  # None: detect them
    columns_chosen: bool  # set by the user: then all of them must exist


@dataclass(frozen=True)
class ImageSettings:
    """Item images and their codes."""

    dir: str | None
    tokenizer: str
    workers: int
    rq_dino: RQDinoSettings


@dataclass(frozen=True)
class CollaborativeSettings:
    """The SASRec behind the collaborative vectors."""

    size: int
    n_layers: int
    n_heads: int
    dropout_prob: float
    learning_rate: float
    batch_size: int | None  # None: by the number of windows
    epochs: int
    patience: int
    n_negatives: int | None  # None: by the size of the catalogue; 0: softmax over all items


@dataclass(frozen=True)
class TrainingSettings:
    """Training of the sequence model, in addition to RecBole's own settings."""

    train_rows: str
    constrained_training: bool
    ema_decay: float
    compile: bool


@dataclass(frozen=True)
class DecodingSettings:
    """Beam search, transitions, reranking, and the second test without a modality."""

    beam_size: int  # by default twice the longest list
    transition_weight: float  # share of the transitions in the score of every code
    rescore_model: tuple[str, ...]
    rescore_weight: tuple[float, ...] | None  # this model's, then theirs; None: to be fitted
    eval_drop_modality: str | None


@dataclass(frozen=True)
class EvaluationSettings:
    """The metrics and modes of RecBole's evaluation."""

    topk: tuple[int, ...]  # lengths of the ranked list
    metrics: tuple[str, ...]  # those of validation and test, then those of the test only
    modes: tuple[str, ...]  # of validation and test: full, uni100, ...


@dataclass(frozen=True)
class PageSettings:
    """Files and pages of the codes."""

    dir: str | None
    title_column: str | None
    words_column: str | None


@dataclass(frozen=True)
class MSCGRecSettings:
    """All settings of a run of MSCGRec, presets resolved."""

    files: DataFiles
    run: RunSettings
    codes: CodeSettings
    text: TextSettings
    images: ImageSettings
    collaborative: CollaborativeSettings
    network: Sizes
    training: TrainingSettings
    decoding: DecodingSettings
    evaluation: EvaluationSettings
    pages: PageSettings

    @classmethod
    def of(cls, config: Any, train: Any) -> MSCGRecSettings:
        """The settings in RecBole's Config, for the data set with train split `train`.

        Raises:
            UserError: a value or a combination of values cannot work.
        """
        presets.resolve(config, train)
        validation.check(config, train.item_num - 1)
        return cls(
            files=data_files(config),
            run=run_settings(config),
            codes=_codes(config),
            text=text_settings(config),
            images=_images(config),
            collaborative=_group(CollaborativeSettings, config, "collaborative_"),
            network=_group(Sizes, config),
            training=_group(TrainingSettings, config),
            decoding=_decoding(config),
            evaluation=_evaluation(config),
            pages=_group(PageSettings, config, "codes_"),
        )


def data_files(config: Any) -> DataFiles:
    """The files of the data set of a run of any model."""
    return DataFiles(
        folder=Path(config["data_path"]),
        name=config["dataset"],
        separator=config["field_separator"],
        encoding=config["encoding"] or "utf-8",
    )


def run_settings(config: Any) -> RunSettings:
    """The settings that all stages share, of a run of any model."""
    return _group(RunSettings, config)


def _codes(config: Any) -> CodeSettings:
    return _group(
        CodeSettings,
        config,
        modalities=tuple(config["modalities"]),
        level_sizes=validation.level_sizes(config["n_levels"], config["codebook_size"]),
        vectors_file=dict(config["vectors_file"] or {}),
        codes_file=dict(config["codes_file"] or {}),
        history_vectors_chosen="history_vectors" in config.external_config_dict,
    )


def text_settings(config: Any) -> TextSettings:
    """The settings text_* of a model that has them."""
    columns = config["text_columns"]
    columns = [columns] if isinstance(columns, str) else columns
    return _group(
        TextSettings,
        config,
        "text_",
        columns=None if columns is None else tuple(columns),
        # The settings of a saved second model do not record which ones the user chose.
        columns_chosen="text_columns" in getattr(config, "external_config_dict", ()),
    )


def _images(config: Any) -> ImageSettings:
    dino = RQDinoSettings(**{name: config[f"image_{name}"] for name in CONFIGURABLE})
    return _group(ImageSettings, config, "image_", rq_dino=dino)


def _decoding(config: Any) -> DecodingSettings:
    beam_size = config["beam_size"]
    if beam_size is None:
        beam_size = 2 * max(config["topk"])
    files = validation.rescore_models(config["rescore_model"])
    return _group(
        DecodingSettings,
        config,
        beam_size=beam_size,
        rescore_model=files,
        rescore_weight=validation.rescore_weights(config["rescore_weight"], len(files)),
    )


def _evaluation(config: Any) -> EvaluationSettings:
    return EvaluationSettings(
        topk=tuple(config["topk"]),
        metrics=(*config["metrics"], *config["test_metrics"]),
        modes=tuple(config["eval_args"]["mode"].values()),
    )


def _group(kind: type[Group], config: Any, prefix: str = "", **given: Any) -> Group:
    """A group whose fields come from the settings PREFIXfield, except those in `given`."""
    names = [field.name for field in fields(kind) if field.name not in given]  # type: ignore[arg-type]
    return kind(**{name: config[f"{prefix}{name}"] for name in names}, **given)
