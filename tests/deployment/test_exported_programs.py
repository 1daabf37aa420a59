"""Programs of torch.export find what the Recommender finds, without this package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import N, tiny_export

import recbole_mscgrec
from recbole_mscgrec.deployment.exported_programs import DecoderProgram, EncoderProgram, programs_of
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_files import read_manifest
from recbole_mscgrec.serving.recommender import Recommender

PAGE = Path(recbole_mscgrec.__file__).resolve().parent.parent / "docs" / "recommend.md"
HISTORIES = ([4], [4, 5], [1, 2, 3, 8, 9])
VARIANTS: dict[str, dict[str, Any]] = {
    "vectors": {"vectors": {"text": torch.randn(N + 1, 6)}},
    "learned, unconstrained": {"learned_items": 24, "constrained": False},
    "some learned": {"learned_items": 5},
    "convolution": {"conv_kernel_size": 3},
    "convolution over codes": {"conv_kernel_size": 3, "history_tokens": "code"},
    "paper": {
        "history_tokens": "code",
        "code_bias": True,
        "decoder": "t5",
        "encoder_attention": "bidirectional",
    },
}
# After the loop of the page: what it finds, for histories of other lengths than the example's.
_PRINT = """
import sys
found = [beam_search([tokens[i - 1] for i in ids], 8) for ids in {histories}]
assert not [name for name in sys.modules if name.startswith(("recbole", "pandas"))]
print(json.dumps(found))
"""


@pytest.mark.parametrize("name", VARIANTS)
def test_grids_give_what_packed_tokens_give(name: str) -> None:
    export = tiny_export(**VARIANTS[name])
    network = Recommender(export).network
    items = torch.tensor([[3, 8, 1, 2], [1, 4, 0, 0], [4, 0, 0, 0]])
    last = torch.tensor([3, 1, 0])
    with torch.inference_mode():
        states, used = EncoderProgram(network)(items)
        encoded = network.encode(items)
        assert torch.allclose(states[used], encoded.states[used], atol=1e-5)
        assert not states[~used].any()
        limit, place = last.unsqueeze(1).expand(3, N), torch.arange(3 * N)
        everything = torch.arange(1, N + 1).repeat(3)
        expected = network.level_log_probs(encoded, limit, everything, place, export.constrained)
        codes = export.table.target_codes.expand(3, N, -1)
        exact = torch.zeros(3, N)
        for level in range(network.n_levels):
            step = DecoderProgram(network, level, export.constrained)
            log_probs = step(states, used, last, codes[..., :level])
            exact += log_probs.gather(-1, codes[..., level : level + 1]).squeeze(-1)
            # The root's distribution is over the first codewords that items have.
            real = {tuple(code[: level + 1].tolist()) for code in export.table.target_codes}
            prefix = tuple(codes[0, 0, :level].tolist())
            children = [k for k in range(log_probs.size(-1)) if (*prefix, k) in real]
            assert (log_probs[0, 0] > -torch.inf).nonzero().flatten().tolist() == children
    assert torch.allclose(exact.flatten(), expected.sum(0), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": {"text": torch.randn(N + 1, 6)}},
        {"conv_kernel_size": 3, "learned_items": 24, "constrained": False},
        {"learned_items": 5},
    ],
    ids=["attention", "convolution", "some learned"],
)
def test_the_loop_of_the_documentation_equals_the_recommender(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    small = {"n_encoder_layers": 1, "n_decoder_layers": 1}  # the export takes seconds per layer
    films = ["50", "172", "181", *(f"film {i}" for i in range(N - 3))]
    export = tiny_export(items=films, **small, **changes)
    model = Recommender(export)
    made = programs_of(model.network, export.max_history, export.constrained)
    assert list(made) == ["encoder", "decoder_0", "decoder_1", "decoder_2"]
    export_folder.write(tmp_path / "export", export, made)
    (loop,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.S)
        if "torch.export.load" in block
    ]
    script = tmp_path / "loop.py"
    script.write_text(loop + _PRINT.format(histories=list(HISTORIES)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    asked = [[export.items[i - 1] for i in ids] for ids in HISTORIES]
    expected = model.recommend(asked, top=8, beam_size=8)
    for found, right in zip(json.loads(done.stdout.splitlines()[-1]), expected, strict=True):
        assert [item for item, _ in found] == [each.item for each in right]
        assert [p for _, p in found] == pytest.approx([each.score for each in right], abs=1e-5)


@pytest.mark.parametrize("n", [5, 24])
def test_programs_share_no_weights_that_they_do_not_need(n: int) -> None:
    network = Recommender(tiny_export(learned_items=n)).network
    program = DecoderProgram(network, 1, True)
    rows = [name for name, _ in program.named_buffers() if name.endswith("row")]
    assert rows == ["network.node_vectors.levels.0.row"] * (n < N)
    names = [name for name, _ in program.named_parameters()]
    assert not [name for name in names if "encoder" in name or "history" in name.split(".")]
    assert [name for name in names if "node_vectors" in name] == [
        "network.node_vectors.levels.0.weight"
    ]
    assert sum(p.numel() for p in network.parameters()) > 0 and network.history is not None


def test_programs_are_files_of_their_generation(tmp_path: Path) -> None:
    export = tiny_export()
    export_folder.write(
        tmp_path, export, {"encoder": b"program", "quantizers": {"a": torch.ones(2)}}
    )
    part = read_manifest(tmp_path)["files"]["encoder"]
    assert part["name"] == "encoder.pt2" and part["bytes"] == 7
    export.generation = 2  # what add-items does: it keeps the files that it names
    export_folder.write(tmp_path, export, unchanged=["model", "quantizers"])
    assert "encoder" not in read_manifest(tmp_path)["files"]
    assert not list(tmp_path.glob("*.pt2")) and (tmp_path / "quantizers.safetensors").is_file()
