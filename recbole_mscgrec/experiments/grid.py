"""Runs a table of rows × seeds: plan and check all cells, run those without a result, write the
table."""

from __future__ import annotations

import argparse
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_mscgrec.config.config import Config, known_settings, unknown_setting
from recbole_mscgrec.config.parsing import parse_values, settings_beside_names
from recbole_mscgrec.data.checks import check_data
from recbole_mscgrec.data.download import with_data
from recbole_mscgrec.experiments import report
from recbole_mscgrec.experiments.job import Cell, finished, run_cell
from recbole_mscgrec.experiments.variants import (
    Row,
    check_reserved,
    read_rows,
    rows_of_models,
    select_rows,
)
from recbole_mscgrec.plugin.evaluation import check_test_metrics
from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.runner.lock import taken
from recbole_mscgrec.storage import cache, lock
from recbole_mscgrec.storage.errors import UserError

# Settings of every cell, unless the command line overrides them.
DEFAULTS = {
    "test_metrics": ["ItemCoverage", "GiniIndex", "TailPercentage"],
    "show_progress": False,
}
DEFAULT_MODEL = "MSCGRec"
_ELSEWHERE = "another process is running it"
_OPTIONS = ("model_list", "seed_list", "ablation", "rows", "table_dir")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a table instead of a single run."""
    group = parser.add_argument_group("tables over models and seeds")
    group.add_argument(
        "--model_list", help="models, comma-separated; the first is compared with the others"
    )
    group.add_argument("--seed_list", help="seeds, comma-separated")
    group.add_argument("--ablation", help="YAML file of named overrides, one row each")
    group.add_argument("--rows", help="only these rows of the ablation, comma-separated")
    group.add_argument("--table_dir", help="folder of the table and of its cells' results")


def given(options: argparse.Namespace) -> list[str]:
    """The options of a table that are set on the command line."""
    return [name for name in _OPTIONS if getattr(options, name) is not None]


def asked_for(options: argparse.Namespace) -> bool:
    """Whether the command line asks for a table."""
    return bool(given(options))


def run(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Run every cell that has no result yet, and write table.md and table.json.

    Failed cells are reported in the table. If the same command runs in several processes, they
    share the cells, and the last one to finish writes the complete table. Returns the content of
    table.json.

    Raises:
        UserError: before anything runs: a model, seed, row or setting is invalid, or the folder has
            results of other settings.
        KeyboardInterrupt: after the table of the finished cells was written; the text says how to
            continue.
    """
    cells = plan(options, settings)
    todo = [cell for cell in cells if finished(cell) is None]
    folder, n_done = cells[0].folder, len(cells) - len(todo)
    getLogger().info(f"{folder}: {n_done} cells are finished, {len(todo)} are to run.")
    errors: dict[tuple[str, int], str] = {}
    try:
        for n, cell in enumerate(todo, 1):
            getLogger().info(
                f"{n} of {len(todo)}: {cell.row.name}, seed {cell.seed} ({cell.file('.log')})"
            )
            error = _run(cell)
            if error is not None:
                errors[cell.row.name, cell.seed] = error
            getLogger().info(f"{n} of {len(todo)}: {_outcome(cell, error)}")
    except KeyboardInterrupt:
        _write(cells, errors)
        raise KeyboardInterrupt(
            f"Stopped. The finished cells are in {folder / 'table.md'}; repeat the same command "
            "to continue."
        ) from None
    n_failed = sum(error != _ELSEWHERE for error in errors.values())
    if n_failed:
        getLogger().warning(f"{n_failed} of {len(cells)} cells failed; the table says why.")
    return _write(cells, errors)


def any_failed(table: dict[str, Any]) -> bool:
    """Whether a row of the table lacks a result that no other process is making."""
    errors = (error for row in table["rows"] for error in row["errors"].values())
    return any(error != _ELSEWHERE for error in errors)


# --- planning -------------------------------------------------------------------------------------


def plan(options: argparse.Namespace, settings: dict[str, Any]) -> list[Cell]:
    """All cells of a table, seed by seed, each of them checked. Raises UserError."""
    rows, seeds = _rows(options), _seeds(options, settings)
    common = settings_beside_names(options.config_files)
    common |= parse_values({k: v for k, v in settings.items() if k != "seed"})
    check_reserved(common)
    kept = _settings_of_rows(rows, common, options.dataset)
    folder = Path(options.table_dir or _default_folder(options, common))
    cells = []
    for seed in seeds:
        for row in rows:
            chosen = {**DEFAULTS, **kept[row.name]}
            cells.append(Cell(row, seed, options.dataset, chosen, folder))
    return _checked(cells)


def _rows(options: argparse.Namespace) -> list[Row]:
    if options.ablation is not None:
        if options.model_list is not None:
            raise UserError("model_list and ablation both name rows: leave one of them out.")
        rows = read_rows(options.ablation, options.model)
        return rows if options.rows is None else select_rows(rows, options.rows)
    if options.rows is not None:
        raise UserError(f"rows ({options.rows}) needs --ablation: it names rows of that file.")
    if options.model_list is not None:
        models = [m.strip() for m in options.model_list.split(",") if m.strip()]
        if models and options.model not in (*models, DEFAULT_MODEL):
            raise UserError(f"model ({options.model}) is not in model_list ({models}): add it.")
        return rows_of_models(models)
    return rows_of_models([options.model])


def _seeds(options: argparse.Namespace, settings: dict[str, Any]) -> list[int]:
    if options.seed_list is not None and "seed" in settings:
        raise UserError("seed and seed_list are both given: leave out seed.")
    text = settings.get("seed", "2020") if options.seed_list is None else options.seed_list
    parts = [part.strip() for part in str(text).split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise UserError(f"seed_list ({text}) must be whole numbers: --seed_list=2020,2021,2022.")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) != len(seeds):
        raise UserError(f"seed_list ({text}) names a seed twice: equal seeds show no spread.")
    return seeds


def _settings_of_rows(
    rows: list[Row], common: dict[str, Any], dataset: str
) -> dict[str, dict[str, Any]]:
    """Row name -> the common settings that its model has, updated by its own.

    Raises:
        UserError: no model has a common key, or a row's model does not have a key of the row.
    """
    models = [row.model for row in rows]
    known = {model: known_settings(model, dataset) for model in dict.fromkeys(models)}
    for key in common:
        if not any(key in keys for keys in known.values()):
            raise unknown_setting(key, frozenset().union(*known.values()), " or ".join(known))
    for row in rows:
        for key in row.settings:
            if key not in known[row.model]:
                error = unknown_setting(key, known[row.model], row.model)
                raise UserError(f"row {row.name!r}: {error}")
    for model, keys in known.items():
        left_out = [f"{key}={value}" for key, value in common.items() if key not in keys]
        if left_out:
            getLogger().info(f"{model} has no setting {', '.join(left_out)}: not passed to it.")
    return {
        row.name: {k: v for k, v in common.items() if k in known[row.model]} | row.settings
        for row in rows
    }


def _default_folder(options: argparse.Namespace, common: dict[str, Any]) -> Path:
    """The default folder. It depends only on data set, kind of table and common settings, so that
    models or seeds can be added later."""
    kind = Path(options.ablation).stem if options.ablation is not None else "models"
    return Path("saved", "tables", f"{options.dataset}-{kind}-{cache.fingerprint(**common)[:8]}")


def _checked(cells: list[Cell]) -> list[Cell]:
    """The cells, checked as far as possible before a run. Ranks are turned off if the evaluation
    gives none."""
    checked, reasons, ranked = [], set(), {}
    for cell in cells:
        if cell.row.name not in ranked:  # the seed does not matter here
            try:
                config = with_data(partial(_config, cell))
                check_data(config)
            except ValueError as error:
                raise UserError(f"{cell.row.name}: {error}") from error
            reason = user_ranks.why_not_per_user(config)
            ranked[cell.row.name] = not reason
            if reason and reason not in reasons:
                getLogger().warning(f"No significance is computed: {reason}.")
                reasons.add(reason)
        checked.append(cell._replace(ranked=ranked[cell.row.name]))
    return checked


def _config(cell: Cell) -> Config:
    """The Config of a cell without a file of ranks, because it may have none."""
    config = cell._replace(ranked=False).config()
    check_test_metrics(config)
    return config


# --- running --------------------------------------------------------------------------------------


def _run(cell: Cell) -> str | None:
    """Run a cell, unless another process is running it or has finished it. Returns None or an
    error.

    The claim lasts from before the cell's process starts until it has ended, so two tables never
    run the same cell.
    """
    try:
        with lock.claim(cell.file(""), f"runs {cell.row.name} with seed {cell.seed}"):
            if taken(cell.config()):
                return _ELSEWHERE
            return None if finished(cell) is not None else run_cell(cell)
    except lock.Claimed:
        return _ELSEWHERE


def _outcome(cell: Cell, error: str | None) -> str:
    if error is not None:
        return error if error == _ELSEWHERE else f"failed: {error}"
    result = finished(cell) or {}
    metric = cell.config()["valid_metric"].lower()
    seconds = sum(result["seconds"].values())
    return f"test {metric} {result['test_result'].get(metric)}, {seconds:.0f} s"


def _write(cells: list[Cell], errors: dict[tuple[str, int], str]) -> dict[str, Any]:
    rows: dict[str, report.Measured] = {}
    for cell in cells:
        name, model, _, note = cell.row
        row = rows.setdefault(name, report.Measured(name, model, note, {}, {}, {}))
        result = finished(cell)
        if result is not None:
            row.results[cell.seed] = result
            if cell.ranks_file.is_file():
                row.ranks[cell.seed] = user_ranks.load(cell.ranks_file)
        else:
            row.errors[cell.seed] = errors.get((name, cell.seed), "not run yet")
    valid_metric = cells[0].config()["valid_metric"].lower()
    table = report.table(list(rows.values()), valid_metric)
    report.write(table, cells[0].folder)
    getLogger().info(f"The table is {cells[0].folder / 'table.md'}, as data table.json.")
    return table
