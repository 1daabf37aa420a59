"""A vector per item and per node of the prefix tree, beside codes and codewords."""

from __future__ import annotations

import pytest
import torch
from tiny import code_table, learned_ids, network_sizes, randomize

from recbole_mscgrec.network import node_embedding
from recbole_mscgrec.network.init import learned_vectors as tables_of
from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.network.node_embedding import NodeVectors
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor
HISTORY = torch.tensor([[3, 8, 3], [11, 24, 0]])
LAST = torch.tensor([[2], [1]])


def network(n: int) -> CodeNetwork:
    torch.manual_seed(0)
    return CodeNetwork(code_table(), network_sizes(learned_items=n), learned=learned_ids(n))


@pytest.mark.parametrize("n", [3, 24])
@pytest.mark.parametrize("dense", [0, 1000], ids=["child by child", "all nodes at once"])
def test_children_get_the_product_with_their_vectors(
    dense: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those on the path to one of the n items have one."""
    monkeypatch.setattr(node_embedding, "_DENSE", dense)
    table = code_table()
    codes = table.target_codes
    tree = PrefixTree(codes, torch.arange(1, table.n_items))
    learned = learned_ids(n)
    vectors = NodeVectors(tree, 4, learned)
    randomize(vectors)
    has_vector = codes if learned is None else codes[learned.long() - 1]
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
                if (has_vector[:, : level + 1] == prefix).all(1).any():
                    table = vectors.levels[level - 1]
                    vector = table(tree.path(below[:1] + 1)[level + 1])[0]
                    expected[row, code] += hidden[row] @ vector
        torch.testing.assert_close(found, expected)


def test_a_network_begins_as_one_without_them() -> None:
    """Same scores, same beams; and what is not shown stays so, as its vectors get no gradient."""
    plain, learned = network(0).eval(), network(24).eval()
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
    model = network(24).eval()
    with torch.no_grad():
        before = model.history(torch.tensor([[5, 9]]))[0]
        model.history.item_embedding.weight[9] += 1
        after = model.history(torch.tensor([[5, 9]]))[0]
    torch.testing.assert_close(after - before, torch.tensor([[[0.0] * 16, [1.0] * 16]]))
    assert [table.weight.size(0) for table in tables_of(model)] == [
        25,
        *(len(code) for code in model.tree.code[1:]),
    ]


# --- only some items have vectors -----------------------------------------------------------------


def log_probs(model: CodeNetwork) -> Tensor:
    """The log-probability (24,) of every item after one history."""
    items = torch.arange(1, 25)
    rows = torch.full((1, 24), 2), items, torch.arange(24)
    return model.level_log_probs(model.encode(HISTORY[:1]), *rows).sum(0)


def test_while_the_vectors_are_zero_all_items_score_as_without_them() -> None:
    plain, some = network(0).eval(), network(5).eval()
    missing, unexpected = some.load_state_dict(plain.state_dict(), strict=False)
    assert len(missing) == 3 and not unexpected
    with torch.no_grad():
        assert torch.equal(log_probs(plain), log_probs(some))
        one, two = (n.beams(n.encode(HISTORY), LAST, 24) for n in (plain, some))
    assert torch.equal(one.items, two.items) and torch.equal(one.log_probs, two.log_probs)


def test_what_has_no_vector_is_represented_by_its_codes_alone() -> None:
    """The tokens of the other items, and the scores of the codewords that lead to other items."""
    plain, some = network(0).eval(), network(5).eval()
    some.load_state_dict(plain.state_dict(), strict=False)
    learned = learned_ids(5)
    with torch.no_grad():
        for table in tables_of(some):
            table.weight[1:].normal_()
        items = torch.arange(1, 25).unsqueeze(0)
        changed = (plain.history(items)[0] != some.history(items)[0]).any(-1)[0]
        assert (changed.nonzero().flatten() + 1).tolist() == learned.tolist()
        hidden, path = torch.randn(24, 16), some.tree.path(items[0])
        for level in range(3):
            nodes = path[level]
            logits = (n.level_logits(level, hidden, nodes) for n in (plain, some))
            code = some.tree.code[level][path[level + 1]].long()
            one, two = (each.gather(1, code.unsqueeze(1)).squeeze(1) for each in logits)
            on_a_path = torch.isin(path[level + 1], path[level + 1][learned.long() - 1])
            assert torch.equal(one != two, on_a_path & (level > 0))


@pytest.mark.parametrize("dense", [0, 1000], ids=["child by child", "all nodes at once"])
def test_training_leaves_the_row_of_all_others_at_zero(
    dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_embedding, "_DENSE", dense)
    model = network(5).train()
    log_probs(model).sum().neg().backward()
    for table in tables_of(model):
        assert not table.weight.grad[0].any() and not table.weight[0].any()
    assert all(table.weight.grad.any() for table in tables_of(model)[1:])


def test_the_memory_follows_the_budget_and_not_the_catalogue() -> None:
    extra = []
    for n_items in (24, 400):
        codes, ids = code_table(n_items + 1, (8, 8, 8)), learned_ids(5, n_items)
        without, some = (
            sum(w.numel() for w in CodeNetwork(codes, sizes, learned=ids).parameters())
            for sizes in (network_sizes(), network_sizes(learned_items=5))
        )
        extra.append(some - without)
    assert max(extra) <= 3 * (5 + 1) * 16  # items and two levels of nodes, rows and width
