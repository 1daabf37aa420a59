"""`recbole-mscgrec recommend`: a trained model answers, for users, histories or all users."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recbole_mscgrec.deployment import answers, bulk
from recbole_mscgrec.deployment import asked as questions
from recbole_mscgrec.deployment.answers import Answer
from recbole_mscgrec.deployment.arguments import QUIET, settings_of
from recbole_mscgrec.deployment.asked import Asked
from recbole_mscgrec.deployment.loading import TrainedModel
from recbole_mscgrec.deployment.page import write_page
from recbole_mscgrec.serving.recommender import POPULAR
from recbole_mscgrec.storage import files
from recbole_mscgrec.storage.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="recbole-mscgrec recommend",
        description="Recommend items with a trained MSCGRec model.",
        epilog="Settings such as --data_path=DIR override those of the training.",
        allow_abbrev=False,
    )
    model = made.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_file", help="checkpoint of a training; its data set is read, too")
    model.add_argument("--export", type=Path, help="export folder; needs no data set")
    who = made.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", nargs="+", help="users of the data set, by token")
    who.add_argument("--history", nargs="+", help='item tokens, oldest first: "50,172,181"')
    who.add_argument("--history_file", type=Path, help="one history per line, as text or JSON")
    who.add_argument("--all_users", action="store_true", help="every user; needs --out")
    made.add_argument("--top", type=int, default=10, help="items per list (default: 10)")
    made.add_argument("--beam_size", type=int, help="beam size (default: that of the training)")
    made.add_argument("--exclude_seen", action="store_true", help="recommend no history items")
    made.add_argument("--exclude_items", type=Path, help="file of tokens never to recommend")
    made.add_argument("--allowed_items", type=Path, help="file of tokens to choose from")
    made.add_argument("--category", help="only items of this category of the .item file")
    made.add_argument("--category_column", help="its column (default: detected)")
    made.add_argument("--fallback", choices=[POPULAR], help="list for an empty history")
    made.add_argument(
        "--cold_share", type=float, help="share of each list for items added after training"
    )
    made.add_argument(
        "--explain", action="store_true", help="name history items whose codes share levels"
    )
    made.add_argument("--out", type=Path, help="a .csv, .jsonl or .parquet file")
    made.add_argument("--html", type=Path, help="a page with histories, posters and results")
    made.add_argument("--image_dir", help="posters for --html (default: the training's)")
    made.add_argument("--batch_size", type=int, default=1024, help="histories per batch")
    made.add_argument("--no_progress", action="store_true", help="no progress bar")
    return made


def main(arguments: list[str]) -> int:
    """Run the command. Returns the exit status."""
    options, rest = parser().parse_known_args(arguments)
    settings = settings_of(rest, parser())
    if options.all_users and not options.out:
        raise UserError("--all_users needs --out FILE.csv, .jsonl or .parquet.")
    if options.all_users and options.html:
        raise UserError("--html is for single users and histories: use --user with it.")
    for option, needed in (("image_dir", "html"), ("category_column", "category")):
        if getattr(options, option) and not getattr(options, needed):
            raise UserError(f"--{option} has no effect without --{needed}: add it.")
    if options.html:
        files.check_folder(options.html.resolve().parent, "--html")
    if options.batch_size < 1:
        raise UserError(f"--batch_size ({options.batch_size}) must be at least 1.")
    if options.out:
        answers.writer_of(options.out)
    if options.out and options.history_file:
        questions.check_regular(options.history_file)
    exclude, allowed = options.exclude_items, options.allowed_items
    lists = {
        "exclude": exclude and files.read_lines(exclude, "--exclude_items", may_be_empty=True),
        "allowed": allowed and files.read_lines(allowed, "--allowed_items"),
    }
    if options.model_file:
        model = TrainedModel.from_checkpoint(options.model_file, {**QUIET, **settings})
    elif settings:
        raise UserError(f"{', '.join(settings)}: settings go with --model_file, not with --export.")
    else:
        model = TrainedModel.from_export(options.export)
    lists["allowed"] = _with_category(lists["allowed"], model, options)
    answer = _answering(model, options, lists)
    asked = _asked(model, options)
    if options.out:
        _write(model, options, settings, lists, answer, asked)
        return 0
    found = answer(list(asked))
    for each in found:
        if len(found) > 1:
            print(f"{each.asked.name}:")
        print(answers.table(each, model, options.explain))
    if options.html:
        write_page(options.html, found, model, options.image_dir)
        print(f"Page: {options.html.resolve().as_uri()}")
    return 0


def _with_category(
    allowed: list[str] | None, model: TrainedModel, options: argparse.Namespace
) -> list[str] | None:
    if options.category is None:
        return allowed
    of_category = model.data.items_of(options.category, options.category_column)
    if allowed is None:
        return of_category
    both = [token for token in allowed if token in set(of_category)]
    if not both:
        raise UserError(f"No item of --allowed_items is in the category {options.category}.")
    return both


def _asked(model: TrainedModel, options: argparse.Namespace) -> Iterator[Asked]:
    if options.user:
        return questions.of_users(model, options.user)
    if options.history:
        return questions.of_texts(options.history)
    if options.history_file:
        return questions.of_file(options.history_file)
    return questions.of_all_users(model)


def _answering(
    model: TrainedModel, options: argparse.Namespace, lists: dict[str, list[str] | None]
) -> Callable[[list[Asked]], list[Answer]]:
    def answer(asked: list[Asked]) -> list[Answer]:
        for each in asked:
            if not each.history and not options.fallback:
                raise UserError(
                    f"History {each.name!r} is empty: leave it out, or add --fallback popular for "
                    "the most frequent items."
                )
        found = model.recommender.recommend(
            [each.history for each in asked],
            options.top,
            exclude=lists["exclude"],
            allowed=lists["allowed"],
            exclude_seen=options.exclude_seen,
            beam_size=options.beam_size,
            fallback=options.fallback,
            cold_share=options.cold_share,
        )
        return [Answer(*pair) for pair in zip(asked, found, strict=True)]

    return answer


def _write(
    model: TrainedModel,
    options: argparse.Namespace,
    settings: dict[str, Any],
    lists: dict[str, list[str] | None],
    answer: Callable[[list[Asked]], list[Answer]],
    asked: Iterator[Asked],
) -> None:
    """Write the answers to `--out`, and the page if `--html` asks for it."""
    kept: list[Answer] = []

    def rows_of(batch: list[Asked]) -> list[dict[str, Any]]:
        found = answer(batch)
        if options.html:
            kept.extend(found)
        return [row for each in found for row in answers.rows_of(each, model, options.explain)]

    chosen = {k: str(v) for k, v in vars(options).items() if k not in ("html", "no_progress")}
    source = Path(options.model_file) if options.model_file else options.export / "manifest.json"
    total = len(model.data.users.tokens) if options.all_users else None
    n = bulk.write_all(
        options.out,
        asked,
        total,
        rows_of,
        {
            "options": chosen,
            "settings": settings,
            "lists": lists,
            "model": source,
            "histories": options.history_file and Path(options.history_file),
        },
        explain=options.explain,
        batch_size=options.batch_size,
        show_progress=not options.no_progress,
    )
    print(f"Recommendations for {n} histories: {options.out}")
    if options.html:
        # After a stop, `rows_of` is not called for the batches finished before.
        found = kept if len(kept) == n else answer(list(_asked(model, options)))
        write_page(options.html, found, model, options.image_dir)
        print(f"Page: {options.html.resolve().as_uri()}")
