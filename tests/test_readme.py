"""The commands, snippets, options and links of README, CONTRIBUTING and docs/ are true."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from exports import N, tiny_export
from tiny import best_file, settings

import recbole_mscgrec
from recbole_mscgrec.cli import command_of, parse
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.deployment.arguments import settings_of
from recbole_mscgrec.experiments import grid, report
from recbole_mscgrec.runner import quick_start
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.tuning import command as tuning
from recbole_mscgrec.tuning import search_space
from recbole_mscgrec.tuning.plan import plan

PROJECT = Path(recbole_mscgrec.__file__).resolve().parent.parent
FILES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(PROJECT.glob("docs/**/*.md"))]
PAGES = {str(p.relative_to(PROJECT)): p.read_text(encoding="utf-8") for p in FILES}


class Block(NamedTuple):
    """A fenced block, and the page it is on."""

    page: str
    text: str


def blocks(language: str) -> list[Block]:
    return [
        Block(page, text)
        for page, content in PAGES.items()
        for text in re.findall(rf"```{language}\n(.*?)```", content, flags=re.S)
    ]


def calls_of(program: str) -> list[list[str]]:
    """Arguments of every call of a program, each once."""
    found = []
    for line in "\n".join(b.text for b in blocks("bash")).replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if program in words:
                found.append(words[words.index(program) + 1 :])
    return [argv for n, argv in enumerate(found) if argv not in found[:n]]


def command_lines() -> list[list[str]]:
    """Arguments of every call of a command beside training, without what the shell does."""
    lines = calls_of("recbole-mscgrec") + calls_of("recbole_mscgrec")
    shell = {"&", "|", ">"}
    ends = [next((n for n, w in enumerate(line) if w in shell), len(line)) for line in lines]
    cut = [line[:end] for line, end in zip(lines, ends, strict=True)]
    return [line for line in cut if line and not line[0].startswith("--")]


def name_of(block: Block) -> str:
    return f"{block.page}: {block.text.splitlines()[0][:40]}"


@pytest.mark.parametrize("argv", calls_of("run_recbole_mscgrec.py"), ids=" ".join)
def test_every_option_is_a_known_setting(argv: list[str], tmp_path: Path) -> None:
    for word in argv if "config_files" in " ".join(argv) else []:
        name = Path(word.rpartition("=")[2])
        if name.suffix == ".yaml":  # one of ours, or one that the reader has
            name.parent.mkdir(parents=True, exist_ok=True)
            ours = PROJECT / name
            name.write_text(ours.read_text() if ours.is_file() else "{}")
    known, chosen = parse(argv)
    if tuning.asked_for(known):
        known.tune = PROJECT / known.tune
        assert plan(known, dict(chosen)).space
        return
    chosen.pop("nproc", None)  # starts as many processes of the same command without it
    if grid.asked_for(known):
        assert grid.plan(known, dict(chosen))
        return
    Config(known.model, known.dataset, known.config_files, dict(chosen))


@pytest.mark.parametrize("argv", command_lines(), ids=" ".join)
def test_every_option_of_a_command_is_known_to_it(argv: list[str]) -> None:
    command = command_of(argv)
    assert command is not None, f"{argv[0]} is no command"
    module, arguments = command
    parser = importlib.import_module(module).parser()
    _, rest = parser.parse_known_args(arguments)
    if chosen := settings_of(rest, parser):
        Config("MSCGRec", "ml-100k", config_dict=chosen)


def test_the_readme_has_two_lines_that_install() -> None:
    lines = [x for b in blocks("bash") if b.page == "README.md" for x in b.text.splitlines()]
    assert [line for line in lines if line.startswith("pip install")] == [
        "pip install -e . && python run_recbole_mscgrec.py --model=MSCGRec --dataset=ml-100k",
        "pip install -e '.[test]' && python -m pytest -n 2 --dist loadfile",
    ]


def test_the_report_of_existing_results_is_made(tmp_path: Path) -> None:
    (line,) = re.findall(
        r"python -m recbole_mscgrec.experiments.report (.*)",
        "\n".join(block.text for block in blocks("bash")),
    )
    words = shlex.split(line)
    (pattern,) = [word for word in words if not word.startswith("--")]
    for model in ("MSCGRec", "Pop"):  # in place of those that the reader has
        for seed in (2020, 2021):
            file = tmp_path / Path(pattern).with_name(f"{model}_{seed}.json")
            file.parent.mkdir(parents=True, exist_ok=True)
            metrics = {"ndcg@10": 0.1}
            content = {"model": model, "dataset": "d", "seed": seed, "settings": {}}
            content |= {"best_valid_result": metrics, "test_result": metrics, "seconds": {}}
            content |= {"peak_memory_mb": 1.0, "peak_memory_mb_after": {}}
            content |= {"peak_gpu_memory_mb": None, "n_parameters": 1}
            file.write_text(json.dumps(content))
    files = [str(p) for p in sorted(tmp_path.glob(pattern))]
    options = [w for w in words if w.startswith("--") and not w.startswith("--table_dir")]
    table = tmp_path / "table"
    assert len(files) == 4 and report.main([*options, f"--table_dir={table}", *files]) == 0
    assert (table / "table.md").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_every_inline_option_is_a_known_setting(page: str) -> None:
    for key, value in re.findall(r"`--(\w+)=([^`\s]*)`", PAGES[page]):
        if key not in {"KEY", "nproc", *vars(parse([])[0])}:
            known = {key: None if value.isupper() else value}  # FILE, NAME: the reader's own
            Config("MSCGRec", "ml-100k", config_dict=known)


@pytest.mark.parametrize("block", blocks("yaml"), ids=name_of)
def test_rows_of_a_table_and_search_spaces_are_valid(block: Block) -> None:
    if not block.text.startswith("- "):
        Path("space.yaml").write_text(block.text)
        assert search_space.read("space.yaml")
        return
    Path("rows.yaml").write_text(block.text)
    assert grid.plan(parse(["--ablation=rows.yaml"])[0], {})


# tests/deployment/test_exported_programs.py runs the loop around the exported programs.
SNIPPETS = [block for block in blocks("python") if "torch.export.load" not in block.text]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all snippets keep codes and models, so that each is made once."""
    return tmp_path_factory.mktemp("trained")


@pytest.mark.slow
@pytest.mark.parametrize("block", SNIPPETS, ids=name_of)
def test_python_snippets_run(
    block: Block,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the data set they name, with the sizes of a tiny model; exports have random weights."""
    if '"export"' in block.text:
        films = ["50", "172", "181", "174", "1", "B00000", "B00003"]
        others = [f"other {i}" for i in range(N - len(films))]
        export_folder.write("export", tiny_export(items=[*films, *others]))
    original = quick_start.run

    def small_run(model: str, dataset: str, *args: Any, config_dict: dict[str, Any]) -> Any:
        small = settings(trained, MAX_ITEM_LIST_LENGTH=20, collaborative_epochs=1)
        for key in ("load_col", "data_path", "topk"):
            del small[key]
        small |= {"codebook_size": 32, "beam_size": 20, "train_batch_size": 256}
        small |= {"collaborative_batch_size": 256}
        return original(model, dataset, *args, config_dict={**small, **config_dict})

    load = quick_start.load_data_and_model

    def load_small(file: str) -> Any:
        """A model of an epoch, in place of the one that the reader has."""
        model, dataset, _ = re.fullmatch(r"saved/(\w+)-(.*)-(HASH).pth", file).groups()
        if not [*(trained / "saved").glob(f"{model}-{dataset}-*.pth")]:
            small_run(model, dataset, config_dict={"epochs": 1, "show_progress": False})
        return load(str(best_file(trained / "saved", model)))

    monkeypatch.setattr(recbole_mscgrec, "run", small_run)
    monkeypatch.setattr(recbole_mscgrec, "load_data_and_model", load_small)
    exec(compile(block.text, block.page, "exec"), {})
    assert capsys.readouterr().out.strip() or "print" not in block.text


def test_values_on_sparse_data_are_the_programs() -> None:
    from recbole_mscgrec.config import presets

    table = PAGES["docs/data.md"].partition("## Sparse data")[2]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, flags=re.M)
    assert {key: yaml.safe_load(value) for key, value in rows} == presets.SETTINGS


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    for link in set(re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", PAGES[page])):
        assert (PROJECT / page).parent.joinpath(link).exists(), link
