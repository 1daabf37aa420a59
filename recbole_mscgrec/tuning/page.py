"""A self-contained page of a study: its trials, and what each setting does to the metric."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from markupsafe import Markup
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from recbole_mscgrec.storage import files
from recbole_mscgrec.tuning import report
from recbole_mscgrec.tuning import study as studies
from recbole_mscgrec.tuning.plan import Plan

_PLOTS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    (
        "Course of the search",
        "The metric of each complete trial, and the best one so far.",
        optuna.visualization.plot_optimization_history,
    ),
    (
        "What each setting does",
        "The metric over the values of each setting.",
        optuna.visualization.plot_slice,
    ),
    (
        "Importance of the settings",
        "The share of the metric's variance over the trials that each setting explains. A rough "
        "guide with few trials.",
        optuna.visualization.plot_param_importances,
    ),
    (
        "Epochs",
        "The metric after each validation. Trials that end early were pruned, or stopped by "
        "stopping_step.",
        optuna.visualization.plot_intermediate_values,
    ),
)


def write(study: optuna.Study, plan: Plan) -> None:
    """Write study.html into the folder of the study. Raises UserError."""
    files.write_text(plan.folder / "study.html", render(page_data(study, plan)))


def page_data(study: optuna.Study, plan: Plan) -> dict[str, Any]:
    """The data of the page: model, dataset, metric, n_counted, n_trials, command, columns and rows
    of the table, plots (title, text, html) and plotly_js."""
    rows = report.rows(study, plan)
    return {
        "model": plan.model,
        "dataset": plan.dataset,
        "metric": plan.metric,
        "n_counted": studies.n_counted(study),
        "n_trials": plan.n_trials,
        "command": report.command(plan) if report.best_of(study) else "",
        "columns": list(rows[0]) if rows else [],
        "rows": rows,
        "plots": list(_plots(study, plan)),
        "plotly_js": Markup(get_plotlyjs()),
    }


def render(page: dict[str, Any]) -> str:
    """The page as a single HTML file; see `files.page_of`."""
    return files.page_of("recbole_mscgrec.tuning", "study.html", page)


def _plots(study: optuna.Study, plan: Plan) -> Iterator[dict[str, Any]]:
    """The plots that can be made; the importance of settings needs two different results."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return
    for title, text, plot in _PLOTS:
        if (
            plot is optuna.visualization.plot_param_importances
            and len({t.value for t in complete}) < 2
        ):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure = plot(study)
        figure.update_layout(title=None, template="plotly_white")
        html = figure.to_html(
            full_html=False, include_plotlyjs=False, config={"displaylogo": False}
        )
        yield {"title": title, "text": text, "html": Markup(html)}
