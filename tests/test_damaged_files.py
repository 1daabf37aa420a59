"""Damaged and foreign files of every kind that we read: each is used as it is, set aside and made
again, or refused by one line that names it. Nothing else may happen, whatever stands in the file.

Every kind is tried with 500 seeded damages: of its bytes (cut, flipped bits, noise), and of its
content (values of other types, missing and strange parts, other shapes and kinds of numbers, NaN),
written anew without a digest, as whoever makes such a file would do.
"""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from conftest import Trained
from recbole.utils import get_trainer
from tiny import (
    Built,
    best_file,
    build,
    coloured_shapes,
    dino_settings,
    protocol,
    settings,
)

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.parsing import read_mapping
from recbole_mscgrec.data.train_rows import train_rows
from recbole_mscgrec.experiments.job import read_result
from recbole_mscgrec.experiments.markdown import markdown
from recbole_mscgrec.experiments.report import read_rows, table
from recbole_mscgrec.experiments.variants import read_rows as read_ablation
from recbole_mscgrec.features import images
from recbole_mscgrec.features.collaborative import _Progress
from recbole_mscgrec.features.given_files import given_codes, given_vectors
from recbole_mscgrec.plugin.ensemble import SecondModel
from recbole_mscgrec.rq_dino.backbone import make_backbone
from recbole_mscgrec.rq_dino.training import DinoTraining
from recbole_mscgrec.rq_dino.views import Pixels
from recbole_mscgrec.runner import interrupted, user_ranks
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.runner.saved_model import check_fits, config_of_saved
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree
from recbole_mscgrec.storage import cache, checkpoint, digest, schema
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer import pipeline
from recbole_mscgrec.tokenizer.pipeline import from_checkpoint

pytestmark = pytest.mark.slow  # half a minute

TIMES = 500
N_ITEMS = 8
Damage = Callable[[random.Random], bytes]
TOKENS = [f"i{n}" for n in range(N_ITEMS)]


# --- damages --------------------------------------------------------------------------------------


def damaged_bytes(whole: bytes, draw: random.Random) -> bytes:
    """One damage of a file's bytes, as a full disk, a bad cable or a stranger makes them."""
    content, at = bytearray(whole), draw.randrange(len(whole))
    kind = draw.randrange(7)
    if kind == 0:
        return whole[:at]
    if kind == 1:
        for _ in range(draw.choice([1, 1, 1, 8, 100])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == 2:
        content[at : at + 64] = draw.randbytes(64)
    elif kind == 3:
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    elif kind == 4:  # the lengths at the front of many formats
        content[: draw.choice([1, 4, 8])] = b"\xff" * draw.choice([1, 4, 8])
    elif kind == 5:
        content[at:at] = content[at // 2 : at // 2 + 100]
    else:
        return draw.choice([b"", b"\0" * 100, b"[" * 100_000, whole[::-1], whole + whole])
    return bytes(content)


def strange_value(old: Any, draw: random.Random) -> Any:
    """Another value in the place of `old`, often of nearly the right kind."""
    if isinstance(old, torch.Tensor) and draw.random() < 0.7 and 0 < old.numel() < 10**9:
        made = old.clone()
        kind = draw.randrange(6)
        if kind == 0 and made.is_floating_point():
            made.view(-1)[draw.randrange(made.numel())] = draw.choice([torch.nan, torch.inf])
        elif kind == 1:
            made = made.to(draw.choice([torch.float64, torch.int16, torch.bool, torch.complex64]))
        elif kind == 2:
            made = made.unsqueeze(0)
        elif kind == 3:
            made = made[: len(made) // 2] if made.dim() else made.repeat(3)
        elif kind == 4:
            made = torch.zeros(1, dtype=made.dtype).expand(10**6, 10**6)
        elif made.dtype == torch.long:
            made.view(-1)[draw.randrange(made.numel())] = draw.choice([-7, 99, 2**40])
        return made
    loop: list[Any] = []
    loop.append(loop)
    many: Any = "x"
    for _ in range(40):
        many = [many, many]
    strange = [None, True, -1, 0, 3, 10**12, 0.5, float("nan"), "", "x", [], {}, [1, "a"], {"a": 1}]
    return draw.choice([*strange, {3: 4}, torch.ones(2), torch.ones(0), loop, many])


def damaged_content(whole: Any, draw: random.Random, replace: Callable[..., Any]) -> Any:
    """A copy with one to three values replaced, removed or added."""
    content = copy.deepcopy(whole)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        node: Any = content
        while True:
            key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            deeper = isinstance(node[key], (dict, list)) and node[key]
            if not deeper or draw.random() < 0.15:
                break
            node = node[key]
        kind = draw.randrange(5)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[draw.choice(["strange", "1", "x" * 99])] = replace(node[key], draw)
        else:
            node[key] = replace(node[key], draw)
        if not content:
            break
    return content


def torch_file(file: Path) -> Damage:
    """Damages of a checkpoint; half of the changed contents get a fresh digest."""
    whole, state = file.read_bytes(), torch.load(file, weights_only=True)
    state.pop("digest", None)

    def damage(draw: random.Random) -> bytes:
        if draw.random() < 0.4:
            return damaged_bytes(whole, draw)
        content = damaged_content(state, draw, strange_value)
        if draw.random() < 0.1:
            content = draw.choice([content, [content], torch.ones(3), None, "x"])
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()

    return damage


def tensor_file(file: Path, forged: bool = True) -> Damage:
    """Damages of a .safetensors file, with its own metadata."""
    whole, state = file.read_bytes(), safetensors.torch.load_file(file)
    with safetensors.safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    plain = {"fingerprint": metadata["fingerprint"].split()[0]} if metadata else None

    def damage(draw: random.Random) -> bytes:
        if draw.random() < 0.5 or not forged:
            return damaged_bytes(whole, draw)
        content = damaged_content(state, draw, strange_value)
        tensors = {
            name: t.contiguous()
            for name, t in content.items()
            if isinstance(t, torch.Tensor) and t.numel() < 10**6 and not t.is_complex()
        }
        return safetensors.torch.save(tensors, metadata=plain)

    return damage


def text_value(old: Any, draw: random.Random) -> Any:
    strange = [None, True, -1, 0, 3, 10**30, 0.5, float("nan"), 1e308, "", "x", [], {}, [1, "a"]]
    deep: Any = "x"
    for _ in range(draw.choice([3, 90])):
        deep = [deep]
    return draw.choice([*strange, {"a": 1}, deep])


def json_file(content: Any) -> Damage:
    whole = json.dumps(content).encode()
    rest = {k: v for k, v in content.items() if k != "digest"}

    def damage(draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return damaged_bytes(whole, draw)
        changed = damaged_content(rest, draw, text_value)
        return json.dumps(draw.choice([changed, changed, changed, [changed], 3])).encode()

    return damage


def yaml_file(content: Any) -> Damage:
    whole = yaml.safe_dump(content).encode()
    double = b"a%d: &a%d [*a%d, *a%d]\n"  # 60 lines stand for 2 ** 60 values
    bombs = [
        b"a0: &a0 [x]\n" + b"".join(double % (i, i, i - 1, i - 1) for i in range(1, 60)),
        b"a: &a [*a]\n",
        b"!!python/object/apply:os.system ['touch executed']",
        b"a: 2020-13-45",
        b"a: !!int x",
        b"? [1]\n: 2",
        b"{" * 3000,
        b"a: " + b"9" * 6000,
        b"\xff\xfe",
        b"",
        b"3: 4",
    ]

    def damage(draw: random.Random) -> bytes:
        kind = draw.randrange(4)
        if kind == 0:
            return draw.choice(bombs)
        if kind == 1:
            return damaged_bytes(whole, draw)
        return yaml.safe_dump(damaged_content(content, draw, text_value)).encode()

    return damage


def array_value(old: Any, draw: random.Random) -> Any:
    made = np.array(old)
    kind = draw.randrange(7)
    if kind == 0:
        return made[: draw.randrange(len(made))] if made.ndim else made.reshape(1)
    if kind == 1:
        return made.astype(
            "S9" if made.dtype.kind == "U" else draw.choice(["U9", "c8", "f2", "b1"])
        )
    if kind == 2 and made.dtype.kind == "f":
        made.flat[draw.randrange(made.size)] = draw.choice([np.nan, np.inf, -np.inf])
    elif kind == 3:
        made = made[None]
    elif kind == 4 and made.size:
        made.flat[0] = made.flat[-1]
    elif kind == 5 and made.dtype.kind == "i" and made.size:
        made.flat[draw.randrange(made.size)] = draw.choice([-3, 2**30])
    else:
        made = np.array(draw.choice(["x", 1.5, 3, b"x"]))
    return made


def huge_header(draw: random.Random) -> bytes:
    """The start of a .npy file that claims gigabytes."""
    shape = draw.choice([(10**10,), (N_ITEMS, 10**9), (10**5, 10**5), (2**62, 2**62), (-1, 4)])
    stream = io.BytesIO()
    kind = draw.choice(["<f4", "|O", "<U1000000", "V8"])
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + bytes(64)


def npy_file(array: np.ndarray) -> Damage:
    def written(value: Any) -> bytes:
        stream = io.BytesIO()
        np.save(stream, value, allow_pickle=False)
        return stream.getvalue()

    def damage(draw: random.Random) -> bytes:
        kind = draw.randrange(3)
        if kind == 0:
            return huge_header(draw)
        return (
            written(array_value(array, draw)) if kind == 1 else damaged_bytes(written(array), draw)
        )

    return damage


def npz_file(arrays: dict[str, np.ndarray]) -> Damage:
    def written(content: dict[str, Any]) -> bytes:
        stream = io.BytesIO()
        np.savez_compressed(stream, **content)
        return stream.getvalue()

    whole = written(arrays)

    def damage(draw: random.Random) -> bytes:
        kind = draw.randrange(4)
        if kind == 0:
            return damaged_bytes(whole, draw)
        if kind == 1:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                for name in arrays:
                    archive.writestr(f"{name}.npy", huge_header(draw))
            return stream.getvalue()
        content = dict(arrays)
        name = draw.choice(list(content))
        if draw.random() < 0.2:
            del content[name]
        else:
            content[name] = array_value(content[name], draw)
        return written(content)

    return damage


# --- what may happen ------------------------------------------------------------------------------


class Outcomes(NamedTuple):
    used: int
    refused: int


def tried(file: Path, damage: Damage, read: Callable[[], Any], times: int = TIMES) -> Outcomes:
    """Read the file after each damage. An error must be one line that names the file."""
    used = refused = 0
    for n in range(times):
        draw = random.Random(f"{file.name} {n}")
        content = damage(draw)
        file.unlink(missing_ok=True)  # a new file: tensors may still be mapped into the old one
        file.write_bytes(content)
        try:
            read()
            used += 1
        except UserError as error:
            text = str(error)
            assert file.name in text and "\n" not in text and len(text) < 1000, text
            refused += 1
        except BaseException:
            print(f"damage {n} of {file.name}: {content[:300]!r}")
            raise
    return Outcomes(used, refused)


def made_again(file: Path, read: Callable[[], bool], caplog: pytest.LogCaptureFixture) -> Any:
    """As `read`, which says whether the file was used; else it must be named and set aside."""
    aside = file.with_name(file.name + ".unusable")

    def checked() -> None:
        caplog.clear()
        if not read():
            assert file.name in caplog.text and aside.is_file() and not file.exists()
            aside.unlink()
            raise UserError(f"{file.name} is made again")

    return checked


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(trained: Trained) -> Built:
    return build("MSCGRec", "rule", {**trained.settings, "result_file": None})


def test_saved_models(trained: Trained, model: Built, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    chosen = {**trained.settings, "model_file": str(file), "result_file": None}
    config = Config("MSCGRec", "rule", config_dict=chosen)

    def read() -> None:
        state = checkpoint.load(file)
        from_checkpoint(state, model.train._dataset, str(file))
        fits = check_fits(config, "model_file", model.model)
        model.model.load_state_dict(fits["state_dict"])
        model.model.load_other_parameter(fits["other_parameter"])

    found = tried(file, torch_file(trained.model_file), read)
    assert found.used > 20 and found.refused > 200


def test_the_settings_of_saved_models(trained: Trained, tmp_path: Path) -> None:
    """Only their settings are changed; these go through the checks that a command line does."""
    file = tmp_path / "model.pth"
    state = torch.load(trained.model_file, weights_only=True)
    state |= {"state_dict": {}, "other_parameter": {}}
    del state["digest"]
    config = Config("MSCGRec", "rule", config_dict={**trained.settings, "model_file": str(file)})

    def damage(draw: random.Random) -> bytes:
        part = draw.choice(["config", "settings", "chosen"])
        stream = io.BytesIO()
        changed = {**state, part: damaged_content(state[part], draw, text_value)}
        torch.save(changed, stream)
        return stream.getvalue()

    assert tried(file, damage, lambda: config_of_saved(config), times=100).used > 5


def test_rescoring_models(rule_folder: Path) -> None:
    run("TiledSASRec", "rule", config_dict=protocol(rule_folder))
    whole = best_file(rule_folder / "saved", "TiledSASRec")
    dataset = build("MSCGRec", "rule", settings(rule_folder)).train._dataset
    file = rule_folder / "second.pth"
    found = tried(file, torch_file(whole), lambda: SecondModel(str(file), "cpu", dataset))
    assert found.used > 20 and found.refused > 200


def test_interrupted_trainings(trained: Trained, model: Built, tmp_path: Path) -> None:
    file = tmp_path / "model.last.pth"
    trainer = get_trainer(model.config["MODEL_TYPE"], "MSCGRec")(model.config, model.model)
    trainer.saved_model_file = str(trained.model_file)
    trainer.train_rows = train_rows(model.train._dataset)
    whole = trained.model_file.with_suffix(".last.pth")
    of_trained = torch.load(trained.model_file)["other_parameter"]["code_state"]
    model.model.other_parameter()["code_state"] |= of_trained

    def read() -> None:
        state = interrupted.read(file, trainer)
        try:
            trainer.resume_checkpoint(file)
            checkpoint.set_random_state(state["random"], model.train)
            trainer.load_training_state(state["training"])
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        model.model.zero_grad()
        sum(p.sum() for p in model.model.parameters()).backward()
        trainer.optimizer.step()

    found = tried(file, torch_file(whole), read)
    assert found.used > 5 and found.refused > 200


def test_half_trained_collaborative_models(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "collaborative.partial.pth"

    def progress() -> _Progress:
        network = torch.nn.Linear(4, 3)
        return _Progress(network, torch.optim.Adam(network.parameters()), file)

    made = progress()
    made.model(torch.ones(1, 4)).sum().backward()
    made.optimizer.step()
    made.update(0.5)
    read = made_again(file, lambda: progress().epoch > 0, caplog)
    found = tried(file, torch_file(file), read)
    assert found.used > 20 and found.refused > 200


def test_half_trained_rq_dino(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, settings = tmp_path / "image.partial.pth", dino_settings(epochs=3)
    pixels = Pixels(coloured_shapes(16), settings, 0, False)
    training = DinoTraining(pixels, settings, [4, 4], seed=1, device="cpu", partial=file)
    training.run()

    def read() -> bool:
        training.epoch = 0
        training._resume()
        return training.epoch > 0

    caplog.set_level("WARNING")
    found = tried(file, torch_file(file), made_again(file, read, caplog))
    assert found.used > 10 and found.refused > 200


# --- caches ---------------------------------------------------------------------------------------


def test_cached_features(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (whole,) = (trained.folder / "cache").glob("text-*.safetensors")
    file, key = tmp_path / whole.name, whole.stem.partition("-")[2]

    def read() -> bool:
        return cache.load(tmp_path, "text", key, schema.features(31)) is not None

    found = tried(file, tensor_file(whole), made_again(file, read, caplog))
    assert found.used > 20 and found.refused > 200


def test_cached_codes(trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is used gives a code table with a prefix tree."""
    (whole,) = (trained.folder / "cache").glob("codes-*.safetensors")
    file, key = tmp_path / whole.name, whole.stem.partition("-")[2]
    chosen = SimpleNamespace(
        run=SimpleNamespace(cache_dir=tmp_path),
        codes=SimpleNamespace(
            modalities=["collaborative", "text"], target_modality="collaborative"
        ),
    )

    def read() -> bool:
        found = pipeline._stored_codes(key, chosen, chosen.codes.modalities, 31)
        if found:
            PrefixTree(found[0].target_codes)
        return found is not None

    found = tried(file, tensor_file(whole), made_again(file, read, caplog))
    assert found.used > 20 and found.refused > 200


def test_checks_of_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "image-check-x.json"
    whole = digest.sealed({"files": {f"i{n}.png": [[70, n], "ab", ""] for n in range(5)}})

    def read() -> bool:
        images._known_checks(file)
        return file.exists()

    found = tried(file, json_file(whole), made_again(file, read, caplog))
    assert found.used > 5 and found.refused > 200


# --- files made elsewhere -------------------------------------------------------------------------

VECTORS = np.random.default_rng(0).normal(size=(N_ITEMS, 3)).astype(np.float32)
CODES = np.arange(2 * N_ITEMS).reshape(N_ITEMS, 2)
DATA = SimpleNamespace(
    item_num=N_ITEMS + 1,
    iid_field="item_id",
    field2token_id={"item_id": {"[PAD]": 0, **{t: n + 1 for n, t in enumerate(TOKENS)}}},
)


@pytest.mark.parametrize("suffix", [".json", ".npz", ".npy", ".safetensors"])
@pytest.mark.parametrize("part", ["vectors", "codes"])
def test_given_files(tmp_path: Path, suffix: str, part: str) -> None:
    rows, file = {"vectors": VECTORS, "codes": CODES}[part], tmp_path / f"given{suffix}"
    (tmp_path / "given.tokens.txt").write_text("\n".join(TOKENS))
    if suffix == ".json":
        damage = json_file(dict(zip(TOKENS, rows.tolist(), strict=True)))
    elif suffix == ".npz":
        damage = npz_file({"tokens": np.array(TOKENS), part: rows})
    elif suffix == ".npy":
        damage = npy_file(rows)
    else:
        safetensors.torch.save_file({part: torch.from_numpy(rows)}, file)
        damage = tensor_file(file)

    def read() -> None:
        if part == "vectors":
            assert bool(torch.isfinite(given_vectors(str(file), "text", DATA)[0]).all())
        else:
            table, sizes = given_codes(str(file), "text", DATA)
            assert int(table.min()) >= -1 and bool((table < sizes).all())

    found = tried(file, damage, read)
    assert found.refused > 200


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_image_weights(tmp_path: Path, suffix: str) -> None:
    """No file, whatever it holds, makes timm ask the hub."""
    sizes = {"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 1}
    file = tmp_path / f"weights{suffix}"
    random_ones = dino_settings(backbone_args=sizes, n_local_crops=0)
    weights = make_backbone(random_ones).model.state_dict()
    chosen = dino_settings(backbone_args=sizes, weights=str(file), n_local_crops=0)
    if suffix == ".pth":
        torch.save({"teacher": weights}, file)
        damage = torch_file(file)
    else:
        safetensors.torch.save_file(weights, file)
        damage = tensor_file(file)
    found = tried(file, damage, lambda: make_backbone(chosen))
    assert found.used > 20 and found.refused > 100


# --- tables and settings --------------------------------------------------------------------------


def test_results(trained: Trained, tmp_path: Path) -> None:
    """What is read can be summed up in a table."""
    file = tmp_path / "a_1.json"

    def read() -> None:
        read_result(file)
        markdown(table(read_rows([str(file)])))

    found = tried(file, json_file(digest.sealed(trained.result)), read)
    assert found.used > 20 and found.refused > 200


def test_ranks(tmp_path: Path) -> None:
    file = tmp_path / "a_1.npz"
    users, ranks = np.array([f"u{n}" for n in range(9)]), np.arange(9, dtype=np.int32)
    damage = npz_file({"users": users, "ranks": ranks, "depth": np.array(10)})
    found = tried(file, damage, lambda: user_ranks.load(file).metric("ndcg@10"))
    assert found.refused > 300


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    content = {"epochs": 3, "topk": [1, 10], "eval_args": {"mode": "full", "split": {"LS": "x"}}}
    found = tried(file, yaml_file(content), lambda: json.dumps(read_mapping(file), default=str))
    assert found.used > 100 and found.refused > 100
    assert not Path("executed").exists()


def test_ablations(tmp_path: Path) -> None:
    file = tmp_path / "rows.yaml"
    content = [{"name": "a", "settings": {"epochs": 3}}, {"name": "b", "note": "x", "model": "Pop"}]
    found = tried(file, yaml_file(content), lambda: read_ablation(file, "MSCGRec"))
    assert found.used > 50 and found.refused > 100
    assert not Path("executed").exists()
