"""Fixes for RecBole's models with current packages, and for models that count or check wrongly."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse
import torch


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    _restore_numpy_aliases()
    _fill_sparse_matrices()
    _import_models_without_kmeans()
    _import_models_without_anomaly_detection()
    _count_every_interaction()
    _log_where_ract_begins()
    _read_vectors_of_relations()
    _read_several_numbers()
    _make_the_graph_of_kgat()


def _restore_numpy_aliases() -> None:
    """`Config.compatibility_settings` reads three names that numpy 2 removed."""
    for name, value in (
        ("float_", np.float64),
        ("complex_", np.complex128),
        ("unicode_", np.str_),
        # Config sets these four itself; interaction.py and metrics.py read them without a Config.
        ("float", np.float64),
        ("int", np.int64),
        ("bool", np.bool_),
        ("object", np.object_),
    ):
        if name not in np.__dict__:
            setattr(np, name, value)


def _fill_sparse_matrices() -> None:
    """LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK fill their graphs with a private method
    of `dok_matrix` that scipy has removed."""

    def _update(self: Any, data: dict[tuple[int, int], float]) -> None:
        self._dict.update(data)

    if not hasattr(scipy.sparse.dok_matrix, "_update"):
        scipy.sparse.dok_matrix._update = _update


def _import_models_without_kmeans() -> None:
    """RecBole 1.2.0 imports kmeans_pytorch with every general model, but does not require it; only
    LDiffRec with several clusters calls it."""
    models, missing = "recbole.model.general_recommender", "kmeans_pytorch"
    if models in sys.modules or importlib.util.find_spec(missing) is not None:
        return

    def kmeans(*args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError(
            "LDiffRec with n_cate > 1 needs kmeans_pytorch: pip install kmeans-pytorch",
            name=missing,
        )

    placeholder = ModuleType(missing)
    placeholder.kmeans = kmeans  # type: ignore[attr-defined]
    sys.modules[missing] = placeholder
    try:
        importlib.import_module(models)
    finally:
        del sys.modules[missing]  # later imports fail as if it were not installed


def _import_models_without_anomaly_detection() -> None:
    """RecBole's sine.py turns autograd's anomaly detection on when the package of sequential models
    is imported: every model then checks all gradients for NaN and trains much more slowly. If that
    package is already imported, it is unknown whether the user had turned it on: it is turned
    off."""
    by_sine = "recbole.model.sequential_recommender.sine" in sys.modules
    before = torch.is_anomaly_enabled() and not by_sine
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(before)


def _count_every_interaction() -> None:
    """Pop adds one to all items of a batch by their index, so an item counts once per batch however
    often it occurs, and the negatives sampled by its loader count as well."""
    from recbole.model.general_recommender.pop import Pop

    original = Pop.calculate_loss
    if getattr(original, "counts_every_interaction", False):
        return

    def calculate_loss(self: Any, interaction: Any) -> torch.Tensor:
        """RecBole's method, with its counts replaced by the number of interactions."""
        before, items = self.item_cnt.clone(), interaction[self.ITEM_ID]
        loss = original(self, interaction)
        if "label" in interaction:
            items = items[interaction["label"] > 0]
        count = torch.bincount(items, minlength=self.n_items)
        self.item_cnt.copy_(before + count.unsqueeze(1))
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return loss

    Pop.calculate_loss = calculate_loss
    Pop.calculate_loss.counts_every_interaction = True


class _Joining(logging.LoggerAdapter):
    """A logger whose `info` accepts several parts of a message, as `print` does."""

    def info(self, *parts: object, **kwargs: Any) -> None:
        super().info(" ".join(map(str, parts)), **kwargs)


def _log_where_ract_begins() -> None:
    """RaCT calls its logger with a text without placeholders and a path, so logging prints a
    traceback."""
    from recbole.model.general_recommender.ract import RaCT

    def keep(self: Any, logger: logging.Logger) -> None:
        self.__dict__["_joining"] = _Joining(logger)

    RaCT.logger = property(lambda self: self.__dict__["_joining"], keep)


def _read_vectors_of_relations() -> None:
    """KSR keeps the vectors of relations as float64, as they were read, and multiplies them by
    float32 weights, which torch refuses."""
    from recbole.model.sequential_recommender.ksr import KSR

    original = KSR.__init__
    if getattr(original, "reads_vectors", False):
        return

    def __init__(self: Any, config: Any, dataset: Any) -> None:
        original(self, config, dataset)
        self.relation_Matrix = self.relation_Matrix.float()

    KSR.__init__ = __init__
    KSR.__init__.reads_vectors = True


def _read_several_numbers() -> None:
    """The feature layers of SASRecF, FDSA, GRU4RecF, DIN and DIEN concatenate float features along
    the axis of (value, bucket), so they fail to separate more than one."""
    from recbole.model.layers import ContextSeqEmbAbstractLayer as Layer

    original = Layer.embed_float_fields
    if getattr(original, "reads_several", False):
        return

    def embed_float_fields(self: Any, fields: torch.Tensor | None, *args: Any, **kw: Any) -> Any:
        if fields is not None:
            fields = fields.reshape(*fields.shape[:-2], -1, 2)  # (..., features, 2)
        return original(self, fields, *args, **kw)

    Layer.embed_float_fields = embed_float_fields
    Layer.embed_float_fields.reads_several = True


def _make_the_graph_of_kgat() -> None:
    """KGAT builds the initial matrix of its attention with dgl, with an argument that no dgl for
    Python 3.10 or later accepts. Here the matrix is built from KGAT's own lists of triples."""
    from recbole.data.dataset import KnowledgeBasedDataset as Data
    from recbole.model.knowledge_aware_recommender.kgat import KGAT

    original = Data.ckg_graph
    if getattr(original, "without_dgl", False):
        return

    def ckg_graph(self: Any, form: str = "coo", value_field: str | None = None) -> Any:
        of_kgat = form == "dgl" and self.config["model"] == "KGAT"
        return original(self, "coo" if of_kgat else form, value_field)

    def init_graph(self: Any) -> torch.Tensor:
        """(n, n): each relation's adjacency with rows that sum to one, summed over relations."""
        rows = self.all_rs * self.matrix_size[0] + self.all_hs
        _, row, length = torch.unique(rows, return_inverse=True, return_counts=True)
        edges = torch.stack([self.all_hs, self.all_ts])
        return torch.sparse_coo_tensor(edges, 1 / length[row], self.matrix_size).coalesce()

    Data.ckg_graph = ckg_graph
    Data.ckg_graph.without_dgl = True
    KGAT.init_graph = init_graph
