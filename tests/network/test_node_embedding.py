"""A vector per item and per node of the prefix tree, beside codes and codewords."""

from __future__ import annotations

import pytest
import torch
from tiny import code_table, network_sizes, randomize

from recbole_mscgrec.network import node_embedding
from recbole_mscgrec.network.init import learned_vectors as tables_of
from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.network.node_embedding import NodeVectors
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor
HISTORY = torch.tensor([[3, 8, 3], [11, 24, 0]])
LAST = torch.tensor([[2], [1]])


def network(learned: bool) -> CodeNetwork:
    torch.manual_seed(0)
    return CodeNetwork(code_table(), network_sizes(learned_vectors=learned))


@pytest.mark.parametrize("dense", [0, 1000], ids=["child by child", "all nodes at once"])
def test_children_get_the_product_with_their_vectors(
    dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_embedding, "_DENSE", dense)
    table = code_table()
    codes = table.target_codes
    tree = PrefixTree(codes, torch.arange(1, table.n_items))
    vectors = NodeVectors(tree, 4)
    randomize(vectors)
    hidden, items = torch.randn(6, 4), torch.tensor([1, 5, 5, 9, 20, 24])
    for level, size in enumerate(table.sizes["a"]):
        nodes = tree.path(items)[level]
        nodes[2] = -1  # a free beam that left the tree
        logits = torch.randn(6, size)
        found = vectors.add_to(logits, level, hidden, nodes)
        expected = logits.clone()
        for row, item in enumerate(items.tolist()):
            for code in range(size) if level and row != 2 else ():
                prefix = torch.cat([codes[item - 1, :level], torch.tensor([code])])
                below = (codes[:, : level + 1] == prefix).all(1).nonzero().flatten()
                if len(below):  # some item has this prefix, so it is a node
                    node = int(tree.path(below[:1] + 1)[level + 1])
                    expected[row, code] += hidden[row] @ vectors.levels[level - 1].weight[node]
        torch.testing.assert_close(found, expected)


def test_a_network_begins_as_one_without_them() -> None:
    """Same scores, same beams; and what is not shown stays so, as its vectors get no gradient."""
    plain, learned = network(False).eval(), network(True).eval()
    missing, unexpected = learned.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing == ["history.item_embedding.weight"] + [
        f"node_vectors.levels.{level}.weight" for level in range(2)
    ]
    with torch.no_grad():
        one, two = (n.beams(n.encode(HISTORY), LAST, 24) for n in (plain, learned))
    assert torch.equal(one.items, two.items)
    torch.testing.assert_close(one.log_probs, two.log_probs)

    targets = torch.tensor([5, 9])
    encoded = learned.encode(HISTORY)
    learned.level_log_probs(encoded, LAST, targets, torch.arange(2)).sum().neg().backward()
    shown = learned.history.item_embedding.weight.grad.abs().sum(1) > 0
    assert shown.nonzero().flatten().tolist() == [3, 8, 11, 24]
    paths = torch.stack(learned.tree.path(targets))  # (L+1, 2)
    for level, layer in enumerate(learned.node_vectors.levels, start=1):
        moved = layer.weight.grad.abs().sum(1) > 0
        choices = learned.tree.n_children(level, paths[level]) > 1
        assert bool(moved[paths[level + 1][choices].long()].all())
        of_targets = torch.cat(
            [torch.arange(*learned.tree.first[level][node : node + 2]) for node in paths[level]]
        )
        assert set(moved.nonzero().flatten().tolist()) <= set(of_targets.tolist())


def test_an_item_adds_its_vector_to_its_token() -> None:
    model = network(True).eval()
    with torch.no_grad():
        before = model.history(torch.tensor([[5, 9]]))[0]
        model.history.item_embedding.weight[9] += 1
        after = model.history(torch.tensor([[5, 9]]))[0]
    torch.testing.assert_close(after - before, torch.tensor([[[0.0] * 16, [1.0] * 16]]))
    assert [table.weight.size(0) for table in tables_of(model)] == [
        25,
        *(len(code) for code in model.tree.code[1:]),
    ]
