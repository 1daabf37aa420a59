"""Where training begins."""

from __future__ import annotations

import torch
from tiny import code_table, network_sizes

from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable
from recbole_mscgrec.semantic_ids.collisions import add_collision_level
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer


def test_items_have_unit_size_and_layers_add_as_much_together() -> None:
    torch.manual_seed(0)
    model = CodeNetwork(
        code_table(60, (4, 5, 3)),
        network_sizes(hidden_size=64, inner_size=128),
    ).eval()
    items = torch.arange(1, 60)[:, None]
    tokens = model.history(items)[0]
    assert 0.8 < float(tokens.pow(2).mean().sqrt()) < 1.2
    assert (model.history.code_embedding.weight[0] == 0).all()
    added = [layer.weight for block in model.encoder for layer in block.output_layers()]
    n_sublayers = len(added) + sum(len(block.output_layers()) for block in model.decoder)
    for weight in added:
        expected = (weight.size(1) * n_sublayers) ** -0.5
        assert 0.9 < float(weight.std()) / expected < 1.1


def test_an_untrained_network_with_vectors_ranks_items_by_how_near_they_are_to_the_last() -> None:
    vectors = torch.randn(60, 12, generator=torch.Generator().manual_seed(2))
    vectors[0] = 0
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    quantizer = ResidualQuantizer([8, 8, 8])
    target = quantizer.fit(vectors[1:])
    unique = add_collision_level(target, torch.zeros(59))
    sizes = [8, 8, 8, int(unique[:, -1].max()) + 1]
    unique = torch.cat([torch.full((1, 4), MISSING), unique])
    codes = CodeTable({"a": unique}, {"a": sizes}, "a")
    torch.manual_seed(0)
    plan = network_sizes(hidden_size=32, inner_size=64, n_encoder_layers=1, n_decoder_layers=1)
    items = torch.arange(1, 60)
    similarity = vectors[1:] @ vectors[1:].T

    def agreement(model: CodeNetwork) -> float:
        """Mean over histories of one item: how similar its five best items are to it."""
        model.eval()
        beams = model.beams(model.encode(items[:, None]), torch.zeros(59, 1).long(), 5)
        return float(similarity.gather(1, beams.items - 1).mean())

    best = float(similarity.topk(5).values.mean())
    assert abs(agreement(CodeNetwork(codes, plan))) < 0.15 * best
    model = CodeNetwork(codes, plan, vectors={"a": vectors})
    model.history.code_embedding.weight.data.zero_()  # codes have nothing to say yet
    assert agreement(model) > 0.35 * best
