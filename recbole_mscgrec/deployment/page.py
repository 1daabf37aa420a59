"""A self-contained page with histories and what is recommended for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_mscgrec.deployment.answers import Answer
from recbole_mscgrec.deployment.loading import TrainedModel
from recbole_mscgrec.storage import files

_LAST_ITEMS = 24  # number of the last history items that are shown
_MOST_SHARED = 2  # history items named for a recommendation


def write_page(
    file: Path, found: list[Answer], model: TrainedModel, image_dir: str | None = None
) -> None:
    """Write the page. Raises UserError if the file cannot be written, or if `image_dir`, the folder
    of the posters, holds no item images."""
    files.write_text(file, render(page_data(found, model, image_dir)))


def page_data(
    found: list[Answer], model: TrainedModel, image_dir: str | None = None
) -> dict[str, Any]:
    """The data of the page as plain values: dataset, generation, n_items, max_history and, for each
    answer, its name, the last items of its history and the recommended items."""
    tokens = [t for each in found for t in each.asked.history[-_LAST_ITEMS:]]
    tokens += [item.item for each in found for item in each.items]
    posters = model.data.posters(tokens, image_dir) if model.has_data else {}

    def card(token: str) -> dict[str, Any]:
        code = ".".join(map(str, model.recommender.code_of(token)))
        title = model.title(token)
        return {"token": token, "title": title, "code": code, "poster": posters.get(token, "")}

    answers = []
    for each in found:
        history, recommended = each.asked.history, []
        for item in each.items:
            shared = model.recommender.explain(history, item.item)[:_MOST_SHARED]
            near = [{**card(s.item), "n_levels": s.n_levels} for s in shared]
            recommended.append({**card(item.item), "score": item.score, "shared": near})
        answers.append(
            {
                "name": each.asked.name,
                "n_history": len(history),
                "history": [card(token) for token in reversed(history[-_LAST_ITEMS:])],
                "recommended": recommended,
            }
        )
    export = model.recommender.export
    return {
        "dataset": export.settings.get("dataset", ""),
        "generation": export.generation,
        "n_items": len(export.items) - int(export.removed.sum()),
        "max_history": export.max_history,
        "answers": answers,
    }


def render(page: dict[str, Any]) -> str:
    """The page as a single HTML file; see `files.page_of`."""
    return files.page_of("recbole_mscgrec.deployment", "recommendations.html", page)
