"""Make the tables of results/*.md and of the README from the CSV files and ranks in this folder.

    python results/tables.py                  # write the tables into the pages
    python results/tables.py --check          # exit status 1 where a page differs from the CSVs
    python results/tables.py --significance   # compute significance.csv from the ranks first

On a page, a table is between `<!-- table: NAME -->` and `<!-- end -->`; TABLES maps NAME to its
content.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence

import numpy as np
from runs import (
    BSAREC,
    COMPARED,
    DROPOUT_2,
    DROPOUT_5,
    EXCLUDED,
    GRU,
    HERE,
    HISTORY,
    LEARNED,
    LENGTH_200,
    METRICS,
    NETWORK,
    ON_GPU,
    PRESENT,
    RANKED,
    RECURRENT,
    RULES,
    TUNED,
    WIDE,
    WIDE_BSAREC,
    WITH_SASREC,
    WITH_TUNED,
    comparisons,
    measured,
    read,
    runs_of,
    write_significance,
)

from recbole_mscgrec.experiments import report

PAGES = [HERE.parent / "README.md", *sorted(HERE.glob("*.md"))]
_SHOWN = {"ndcg": "NDCG", "recall": "Recall", "mrr": "MRR"}
_MARK = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end -->)", re.S)


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in cells)


def _title(metric: str) -> str:
    name, _, k = metric.partition("@")
    return f"{_SHOWN.get(name, name)}@{k}"


def _spread(value: dict) -> str:
    return f"{value['mean']:.4f}" + ("" if value["sd"] is None else f" ± {value['sd']:.4f}")


def accuracy(
    table: str,
    rows: Sequence[str] = (),
    protocols: Sequence[str] = (RANKED, EXCLUDED),
    metrics: Sequence[str] = METRICS,
) -> str:
    """Mean and standard deviation over seeds: validation in the first protocol, test in each."""
    head = ["row", "seeds", f"valid NDCG@10, {protocols[0]}"]
    head += [f"test {_title(m)}, {p}" for p in protocols for m in metrics]
    body = []
    for row in rows or sorted({r["row"] for r in read("runs.csv") if r["table"] == table}):
        cells = {}
        for protocol in (p for p in protocols if runs_of(table, row, p)):
            cells[protocol] = report.table([measured(table, row, protocol)])["rows"][0]
        first = cells.get(protocols[0])
        seeds = "/".join(dict.fromkeys(str(len(c["seeds"])) for c in cells.values()))
        line = [row, seeds, _spread(first["valid"]["ndcg@10"]) if first else ""]
        for protocol in protocols:
            line += [
                _spread(cells[protocol]["test"][m]) if protocol in cells else "" for m in metrics
            ]
        body.append(line)
    return lines(head, body)


def headline() -> str:
    """The README's table: MSCGRec, the trained rival with the best test NDCG@10, and the rules.
    The rival's cell ends with how many times as good MSCGRec is."""
    head = ["test NDCG@10, mean ± standard deviation, 3 seeds"]
    for protocol in (RANKED, EXCLUDED):
        start = protocol.replace("seen", "seen items")
        head += [f"{start}: MSCGRec", "best trained rival", RULES]
    body = []
    for title, own, rivals in HEADLINE:
        line = [title]
        for protocol in (RANKED, EXCLUDED):
            found = {rival: _ndcg(protocol, *rival) for rival in rivals}
            best = max(found, key=lambda rival: found[rival][0])
            mean, shown = _ndcg(protocol, *own)
            line += [shown, f"{best[1]} {found[best][1]}: {mean / found[best][0]:.2f} x"]
            rules = _ndcg(protocol, own[0], RULES)
            line.append(f"{rules[1]}: {mean / rules[0]:.2f} x")
        body.append(line)
    return lines(head, body)


def _ndcg(protocol: str, table: str, row: str) -> tuple[float, str]:
    """The mean test NDCG@10 of a row, and how it is shown."""
    found = report.table([measured(table, row, protocol)])["rows"][0]
    value = found["test"]["ndcg@10"]
    return value["mean"], _spread(value) + (" (1 seed)" if value["sd"] is None else "")


def diversity(rows: dict[str, tuple[str, str]]) -> str:
    """Coverage, Gini index and share of unpopular items among the first ten, of table and row."""
    names = ("itemcoverage@10", "giniindex@10", "tailpercentage@10")
    body = []
    for name, (table, row) in rows.items():
        test = report.table([measured(table, row, RANKED)])["rows"][0]["test"]
        body.append([name, *(_spread(test[n]) for n in names)])
    return lines(["row", *names], body)


def cost(table: str, rows: Sequence[str]) -> str:
    """Epochs, seconds of training, parameters, and the highest memory of any seed."""
    head = ["row", "epochs trained", "best epoch", "seconds of training", "parameters", "peak MB"]
    body = []
    for row in rows:
        runs = runs_of(table, row, RANKED)
        seconds = np.mean([float(r["seconds train"]) for r in runs])
        epochs = [", ".join(r[k] for r in runs) for k in ("epochs_trained", "best_epoch")]
        memory = max(float(r["peak_memory_mb"]) for r in runs)
        parameters = max(int(r["n_parameters"]) for r in runs)
        body.append([row, *epochs, f"{seconds:.0f}", f"{parameters:,}", f"{memory:,.0f}"])
    return lines(head, body)


def differences(table: str, pairs: Sequence[tuple[str, str, str]] = ()) -> str:
    """First minus other with interval, p and ratio of the means; all pairs by default."""
    head = ["first minus other", "protocol", "users", "seeds"]
    for metric in METRICS:
        head += [_title(metric), "95% interval", "p", "ratio"]
    found = {tuple(r[k] for k in COMPARED): r for r in read("significance.csv")}
    pairs = pairs or list(dict.fromkeys(key[1:4] for key in found if key[0] == table))
    body = []
    for protocol, first, other in pairs:
        row = found[table, protocol, first, other, METRICS[0]]
        line = [f"{first} minus {other}", protocol, row["n_users"], str(len(row["seeds"].split()))]
        # The seeds that both have: BERT4Rec has only one.
        seeds = {int(seed) for seed in row["seeds"].split()}
        one, two = (measured(table, name, protocol) for name in (first, other))
        for metric in METRICS:
            row = found[table, protocol, first, other, metric]
            interval = f"{float(row['low']):+.4f} to {float(row['high']):+.4f}"
            mean = [
                np.mean([r.results[s]["test_result"][metric] for s in seeds]) for r in (one, two)
            ]
            line += [f"{float(row['difference']):+.4f}", interval, _p(row["p"])]
            line.append(f"{mean[0] / mean[1]:.2f}")
        body.append(line)
    return lines(head, body)


def _p(value: str) -> str:
    return "< 0.0001" if float(value) <= 1.0001e-4 else f"{float(value):.4f}"


def plain(file: str, columns: Sequence[str], **where: str) -> str:
    """Columns of a CSV file, unchanged, of the rows with the given values."""
    rows = [r for r in read(file) if all(r[k] == v for k, v in where.items())]
    return lines(columns, [[r[c].replace("|", "\\|") for c in columns] for r in rows])


def scale() -> str:
    """CPU seconds and peak memory of each stage, for each number of items."""
    rows = read("scale.csv")
    sizes = sorted({int(row["items"]) for row in rows})
    head = ["stage"]
    for n in sizes:
        head += [f"{n:,} items: seconds", "CPU seconds", "peak MB"]
    body = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        line, exponent = [stage], ""
        for n in sizes:
            own = [r for r in rows if (r["stage"], int(r["items"])) == (stage, n)]
            line += [own[0][k] if own else "" for k in ("seconds", "cpu_seconds", "peak_mb")]
            exponent = own[0]["exponent"] if own else exponent
        body.append([*line, exponent])
    return lines([*head, "exponent"], body)


def cold(dataset: str) -> str:
    """The table of items that training never saw."""
    columns = [name for name in read("cold_items.csv")[0] if name != "dataset"]
    return plain("cold_items.csv", columns, dataset=dataset)


def tried(page: str, metric: str = "validation NDCG@10") -> str:
    """What was tried, kept or not; the third column of tried.csv is named after the metric."""
    columns = ("change", "epoch", "validation NDCG@10", "note")
    head, _, rest = plain("tried.csv", columns, page=page).partition("\n")
    return head.replace("validation NDCG@10", metric) + "\n" + rest


RIVALS = (DROPOUT_2, DROPOUT_5, BSAREC, GRU, TUNED, "BERT4Rec")
DENSE = ("MSCGRec", NETWORK, WITH_TUNED, RULES, *RIVALS)
SPARSE = ("MSCGRec", NETWORK, RULES, DROPOUT_2, DROPOUT_5, WIDE, WIDE_BSAREC, GRU, TUNED)
HEADLINE = [
    (
        f"[{name}](results/{name}.md)",
        (name, "MSCGRec"),
        [(name, row) for row in (*RIVALS, WIDE, WIDE_BSAREC) if runs_of(name, row, EXCLUDED)],
    )
    for name in ("ml-100k", "amazon-scientific", "amazon-office", "ml-1m-times")
]
HEADLINE.append(
    (
        "[ml-1m](results/ml-1m.md), histories of 200",
        (LENGTH_200, PRESENT[0]),
        [(ON_GPU, row) for row in ("TiledSASRec", f"{GRU}, 20 epochs")],
    )
)
COMPONENTS = ("default", "no learned vectors", "135 learned items", "no convolution", "target text")
COMPONENTS = (*COMPONENTS, "modality masking 0.1", "collision redistribute", "codebook 256")
COMPONENTS = (*COMPONENTS, "2 levels", "decoder of the paper", "unconstrained training")
COMPONENTS = (*COMPONENTS, "no average of weights", "shuffled codes")
SETTINGS = ("MSCGRec", "no neighbours", NETWORK, "no neighbours, network alone")
SETTINGS = (*SETTINGS, "no history vectors", "target collaborative", "no average of weights")
SETTINGS = (*SETTINGS, "no average of weights, network alone")
ENCODERS = (
    "MSCGRec",
    "gated units",
    "GRU",
    NETWORK,
    "gated units, network alone",
    "GRU, network alone",
)
EQUAL_TIME = ("attention", "gated units", "attention, two epochs", "GRU, two epochs")
LONG = ("MSCGRec", LEARNED, WITH_SASREC, f"{LEARNED}, with TiledSASRec", "TiledSASRec")
SETS = ("all three", "collaborative and text", "collaborative", "text and image", "text", "image")
_KEPT = [(p, f, o) for table, p, f, o in comparisons() if table == "ml-100k"]

TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "ml-100k": lambda: accuracy("ml-100k", DENSE),
    "ml-100k significance": lambda: differences("ml-100k", _KEPT),
    "ml-100k diversity": lambda: diversity(
        {"MSCGRec, 16 epochs": ("components ml-100k", "default")}
        | {row: ("ml-100k", row) for row in (RULES, DROPOUT_2, DROPOUT_5, GRU)}
    ),
    "ml-100k cost": lambda: cost("ml-100k", [r for r in DENSE if r not in (WITH_TUNED, RULES)]),
    "beam size": lambda: plain("beam_size.csv", list(read("beam_size.csv")[0])),
    "ml-100k tried": lambda: tried("ml-100k"),
    "amazon-scientific": lambda: accuracy("amazon-scientific", SPARSE),
    "amazon-scientific significance": lambda: differences("amazon-scientific"),
    "amazon-scientific tried": lambda: tried("amazon-scientific"),
    "amazon-office": lambda: accuracy("amazon-office", ("MSCGRec", NETWORK, RULES, TUNED)),
    "amazon-office significance": lambda: differences("amazon-office"),
    "sparse settings amazon-scientific": lambda: accuracy("amazon-scientific", SETTINGS),
    "sparse settings amazon-office": lambda: accuracy("amazon-office", SETTINGS),
    "ml-1m-times": lambda: accuracy("ml-1m-times", ("MSCGRec", NETWORK, RULES, GRU)),
    "ml-1m-times significance": lambda: differences("ml-1m-times"),
    "ml-1m-times tried": lambda: tried("ml-1m-times"),
    "weak text amazon-office": lambda: accuracy("weak text amazon-office", ("MSCGRec", RULES)),
    "weak text amazon-scientific": lambda: accuracy(
        "weak text amazon-scientific", ("MSCGRec", RULES)
    ),
    "transition weights": lambda: plain(
        "transition_weight.csv", list(read("transition_weight.csv")[0])
    ),
    "transitions tried": lambda: tried("transitions"),
    "ml-1m length 50": lambda: accuracy(
        "ml-1m length 50", ("MSCGRec", WITH_SASREC, "TiledSASRec", f"{GRU}, 16 epochs")
    ),
    "ml-1m length 50 significance": lambda: differences("ml-1m length 50"),
    LENGTH_200: lambda: accuracy(LENGTH_200, (*PRESENT, RULES, *LONG)),
    f"{LENGTH_200} significance": lambda: differences(LENGTH_200),
    ON_GPU: lambda: accuracy(
        ON_GPU,
        (LEARNED, RECURRENT, f"{LEARNED}, with TiledSASRec", "TiledSASRec", f"{GRU}, 20 epochs"),
    ),
    f"{ON_GPU} significance": lambda: differences(ON_GPU),
    "ml-1m diversity": lambda: diversity(
        {row: ("ml-1m length 50", row) for row in ("MSCGRec", "TiledSASRec")}
    ),
    "ml-1m history excluded": lambda: accuracy(LENGTH_200, LONG, [HISTORY]),
    "published": lambda: plain("published.csv", ("model", "source", "NDCG@10", "Recall@10")),
    "components ml-100k": lambda: accuracy("components ml-100k", COMPONENTS),
    "components ml-100k network": lambda: accuracy("components ml-100k network", COMPONENTS),
    "encoder ml-100k": lambda: accuracy("ml-100k", ENCODERS),
    "encoder amazon-scientific": lambda: accuracy("amazon-scientific", ENCODERS),
    "encoder ml-1m-times": lambda: accuracy("encoder ml-1m-times", EQUAL_TIME),
    "components length 20": lambda: accuracy("components ml-100k length 20", protocols=[RANKED]),
    "components ml-1m": lambda: accuracy("components ml-1m"),
    "modalities ml-100k": lambda: accuracy("modalities ml-100k", (*SETS, "Pop")),
    "modalities ml-1m": lambda: accuracy("modalities ml-1m", SETS[:3], [RANKED]),
    "seen-items tried": lambda: tried("seen-items"),
    "cold amazon-scientific": lambda: cold("amazon-scientific"),
    "cold ml-1m": lambda: cold("ml-1m"),
    "image codes": lambda: plain("image_codes.csv", list(read("image_codes.csv")[0])),
    "image losses": lambda: plain("image_losses.csv", list(read("image_losses.csv")[0])),
    "image-codes tried": lambda: tried("image-codes", "micro-F1"),
    "scale": scale,
    "sampled softmax": lambda: accuracy("sampled softmax"),
    "sampled softmax ml-1m": lambda: accuracy("sampled softmax ml-1m"),
}


def render(text: str) -> str:
    """A page with its tables made again."""
    return _MARK.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[4]}", text)


def main(argv: list[str] | None = None) -> int:
    """Write or check all pages. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, tell what differs")
    parser.add_argument("--significance", action="store_true", help="compare users' ranks anew")
    options = parser.parse_args(argv)
    if options.significance:
        write_significance()
    differs = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = render(text)
        if new != text:
            differs.append(page.name)
            if not options.check:
                page.write_text(new, encoding="utf-8")
    sys.stdout.write("".join(f"{name} {'differs' * options.check}\n" for name in differs))
    return int(options.check and bool(differs))


if __name__ == "__main__":
    sys.exit(main())
