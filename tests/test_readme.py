"""The README's commands and snippets are true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny import best_file, settings

import recbole_mscgrec
from recbole_mscgrec.cli import parse
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.experiments import grid, report
from recbole_mscgrec.runner import quick_start

PROJECT = Path(recbole_mscgrec.__file__).resolve().parent.parent
TEXT = (PROJECT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)


def commands() -> list[list[str]]:
    """Arguments of every call of run_recbole_mscgrec.py."""
    import shlex

    found = []
    for line in "\n".join(blocks("bash")).replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if "run_recbole_mscgrec.py" in words:
                found.append(words[words.index("run_recbole_mscgrec.py") + 1 :])
    return found


@pytest.mark.skipif(not commands(), reason="README.md shows no command yet")
@pytest.mark.parametrize("argv", commands(), ids=" ".join)
def test_every_option_is_a_known_setting(argv: list[str], tmp_path: Path) -> None:
    for word in argv if "config_files" in " ".join(argv) else []:
        name = Path(word.rpartition("=")[2])
        if name.suffix == ".yaml":  # one of ours, or one that the reader has
            name.parent.mkdir(parents=True, exist_ok=True)
            ours = PROJECT / name
            name.write_text(ours.read_text() if ours.is_file() else "{}")
    known, chosen = parse(argv)
    if grid.asked_for(known):
        assert grid.plan(known, dict(chosen))
        return
    Config(known.model, known.dataset, known.config_files, dict(chosen))


def test_the_report_of_existing_results_is_made(
    tmp_path: Path,
) -> None:
    (line,) = re.findall(
        r"python -m recbole_mscgrec.experiments.report (.*)", "\n".join(blocks("bash"))
    )
    words = [w for w in line.split() if not w.startswith("--table_dir")]
    files = [str(p) for w in words for p in sorted(PROJECT.glob(w)) if not w.startswith("--")]
    options = [w for w in words if w.startswith("--")]
    assert len(files) > 1 and report.main([*options, f"--table_dir={tmp_path}", *files]) == 0
    assert (tmp_path / "table.md").is_file()


def test_every_inline_option_is_a_known_setting() -> None:
    for key, value in re.findall(r"`--(\w+)=([^`]*)`", TEXT):
        if key not in vars(parse([])[0]):
            Config("MSCGRec", "ml-100k", config_dict={key: value if value != "..." else None})


@pytest.mark.parametrize("text", blocks("yaml"))
def test_rows_of_a_table_are_valid(text: str) -> None:
    Path("rows.yaml").write_text(text)
    assert grid.plan(parse(["--ablation=rows.yaml"])[0], {})


@pytest.mark.skipif(not blocks("python"), reason="README.md shows no Python yet")
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0][:40])
def test_python_snippets_run(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the data set they name, with the sizes of a tiny model."""
    original = quick_start.run

    def small_run(model: str, dataset: str, *args: Any, config_dict: dict[str, Any]) -> Any:
        small = settings(tmp_path, MAX_ITEM_LIST_LENGTH=20, collaborative_epochs=1)
        for key in ("load_col", "data_path", "topk"):
            del small[key]
        small |= {"codebook_size": 32, "beam_size": 20, "train_batch_size": 256}
        small |= {"collaborative_batch_size": 256}
        return original(model, dataset, *args, config_dict={**small, **config_dict})

    load = quick_start.load_data_and_model

    def load_small(file: str) -> Any:
        """A model of an epoch, in place of the one that the reader has."""
        model, dataset, _ = re.fullmatch(r"saved/(\w+)-(.*)-(HASH).pth", file).groups()
        small_run(model, dataset, config_dict={"epochs": 1, "show_progress": False})
        return load(str(best_file(tmp_path / "saved", model)))

    monkeypatch.setattr(recbole_mscgrec, "run", small_run)
    monkeypatch.setattr(recbole_mscgrec, "load_data_and_model", load_small)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() or "print" not in code


def test_yaml_defaults_in_the_table_of_knobs_are_the_files() -> None:
    import yaml

    files = ("overall.yaml", "model/MSCGRec.yaml")
    values = {}
    for file in files:
        values |= yaml.safe_load((PROJECT / "properties" / file).read_text(encoding="utf-8"))
    for line in TEXT.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        keys = re.findall(r"`(\w+)`", cells[0]) if line.startswith("| `") else []
        defaults = [c.strip("` ") for c in re.split(r",\s*(?![^\[]*\])", cells[1])] if keys else []
        for key, default in zip(keys, defaults, strict=bool(keys)):
            if "@@" not in default:  # still to be filled in
                assert yaml.safe_load(default) == values[key], key


def test_nothing_is_left_to_fill_in() -> None:
    assert re.findall(r"@@\w+@@", TEXT) == []


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))))
def test_links_to_files_lead_somewhere(link: str) -> None:
    assert (PROJECT / link).exists()
