"""SIGKILL at random moments of every stage of a run, then the same command with --resume=True: does
it end with the results and weights of a run that nobody killed?

    python benchmarks/kill.py
    python benchmarks/kill.py --kills-per-stage=2 --only=checkpoints --seed=7
    python benchmarks/kill.py --model=SASRec

The run is small: users with 30 to 70 interactions of ml-100k, which RecBole ships, and generated
images. A run that is not killed shows when the stages begin and end, by the lines of its log and
its files. For each kill a new run is started and killed at a random time within a stage. Then the
same command with --resume=True runs to its end.

A kill counts as equal if metrics, ranks per user, item codes, and the weights, optimizer and random
state of the best and of the last checkpoint are those of the run that was not killed, bit by bit;
as failed if the second command does not end well, or if it leaves temporary files. The exit status
is 1 unless all are equal. Everything runs on the CPU with one thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from abuse import run_here
from PIL import Image

EQUAL, DIFFERENT, FAILED = "equal", "different", "failed"
SECONDS = 300  # that a run may take
EPOCHS = 4
ANY_MODEL = (
    "--dataset=ml-100k --item_inter_num_interval=[10,inf) --user_inter_num_interval=[30,70]"
    f" --MAX_ITEM_LIST_LENGTH=20 --epochs={EPOCHS} --hidden_size=32 --inner_size=32 --n_heads=2"
    " --use_gpu=False --show_progress=False --result_file=result.json --per_user_file=ranks.npz"
).split()
MSCGREC = (
    "--codebook_size=16 --n_encoder_layers=1 --n_decoder_layers=1 --text_tfidf_size=16"
    " --collaborative_epochs=3 --collaborative_size=16 --image_dir=images --image_workers=0"
    " --image_epochs=3 --image_size=16 --image_local_size=8"
    " --image_backbone_args={'patch_size':4,'embed_dim':32,'depth':1,'num_heads':2}"
).split()
# An event is a file that appears, if it is a pattern with a slash or a dot, or words in the log.
_START, _DATA, _CODES = "output.txt", "[Evaluation]", "saved/cache/codes-*.json"
_TEXT, _IMAGE = "saved/cache/text-*.safetensors", "saved/cache/image-*.safetensors"
_SASREC, _RESULT = "saved/cache/collaborative-*.safetensors", "result.json"
_TEST = "Loading model structure"


class Stage(NamedTuple):
    """A part of a run. Each window is a pair of events: the stage begins and ends."""

    name: str
    windows: list[tuple[str, str]]


def stages(model: str = "MSCGRec", epochs: int = EPOCHS) -> list[Stage]:
    """The stages of a run in their order."""
    ours = model == "MSCGRec"
    trained = [f"epoch {n} training" for n in range(epochs)]
    validated = [f"epoch {n} evaluating" for n in range(epochs)]
    tokenizer = [
        Stage("text", [(_DATA, _TEXT)]),
        Stage("images (RQ-DINO)", [(_TEXT, _IMAGE)]),
        Stage("SASRec", [(_IMAGE, _SASREC)]),
        Stage("quantization and codes", [(_SASREC, _CODES)]),
    ]
    begins = [_CODES if ours else _DATA, *validated]
    return [
        Stage("reading of the data", [(_START, _DATA)]),
        *(tokenizer if ours else []),
        Stage("training", list(zip(begins, trained, strict=False))),
        Stage("validation", list(zip(trained, validated, strict=True))),
        # The best model and the last epoch; those of later epochs take as long as the first.
        Stage("writing of checkpoints", [(event, "saved/*.last.pth") for event in validated]),
        Stage("test and result file", [(_TEST, _RESULT)]),
    ]


class Watch:
    """A run in a forked process, and the events that it has shown."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder = folder
        fork = multiprocessing.get_context("fork")
        self.process = fork.Process(target=run_here, args=(folder, arguments))
        self.process.start()
        self.began = time.monotonic()

    def shows(self, event: str) -> bool:
        """Whether an event has happened."""
        if " " in event or event.startswith("["):
            return event in self.log()
        return any(self.folder.glob(event))

    def log(self) -> str:
        """What the run has printed."""
        output = self.folder / "output.txt"
        return output.read_text("utf-8", errors="replace") if output.is_file() else ""

    def until(self, event: str) -> bool:
        """Wait for an event. Whether it has happened before the run ended."""
        while self.process.is_alive() and time.monotonic() < self.began + SECONDS:
            if self.shows(event):
                return True
            time.sleep(0.002)
        return self.shows(event)

    def end(self, by: signal.Signals | None = None) -> int | None:
        """End the run with a signal, or let it end. Its exit status; None if it did not end."""
        if by is not None and self.process.is_alive():
            os.kill(self.process.pid or 0, by)
        self.process.join(max(0.0, self.began + SECONDS - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            return None
        return self.process.exitcode


def times_of(folder: Path, arguments: list[str], events: set[str]) -> dict[str, float]:
    """Run to the end. Event -> seconds after which it was seen first."""
    watch, seen = Watch(folder, arguments), dict[str, float]()
    while watch.process.is_alive():
        for event in events - seen.keys():
            if watch.shows(event):
                seen[event] = time.monotonic() - watch.began
        time.sleep(0.002)
    if watch.end() != 0:
        sys.exit(f"The run that is not killed fails:\n{watch.log()[-2000:]}")
    if missing := events - seen.keys():
        sys.exit(f"The run that is not killed shows no {sorted(missing)}.")
    return seen


def try_kill(
    stage: Stage, times: dict[str, float], folder: Path, arguments: list[str], draw: random.Random
) -> tuple[str, str] | None:
    """Kill a run in a stage and repeat it. The outcome, and the reason if it is not `equal`; None
    if the run had ended before it was killed."""
    begin, end = draw.choice(stage.windows)
    first, last = stage.windows[0] if stage.windows[0][1] == end else (begin, end)
    wait = draw.uniform(0, max(0.0, times[last] - times[first]))
    watch = Watch(folder, arguments)
    if watch.until(begin):
        time.sleep(wait)
    if watch.end(signal.SIGKILL) != -signal.SIGKILL:
        return None
    again = Watch(folder, [*arguments, "--resume=True"])
    status = again.end()
    when = f"killed {wait:.3f} s after {begin!r}"
    if status != 0:
        return FAILED, f"{when}: status {status}: {' '.join(again.log().split()[-40:])}"
    if left := [file.name for file in folder.rglob("*.tmp")]:
        return FAILED, f"{when}: left {left}"
    return EQUAL, when


def differences(one: Path, two: Path) -> list[str]:
    """What is not the same in the files of two runs."""
    a, b = (json.loads((f / "result.json").read_text("utf-8")) for f in (one, two))
    keys = ("best_valid_result", "test_result", "code_health")
    found = [f"{key} {a[key]} and {b[key]}" for key in keys if a[key] != b[key]]
    with (
        np.load(one / "ranks.npz", allow_pickle=False) as a,
        np.load(two / "ranks.npz", allow_pickle=False) as b,
    ):
        found += [f"{name} of ranks.npz" for name in a if not np.array_equal(a[name], b[name])]
    checkpoints = sorted(file.name for file in (one / "saved").glob("*.pth"))
    for name in checkpoints:
        if not (two / "saved" / name).is_file():
            found.append(f"{name} is missing")
            continue
        a, b = (torch.load(f / "saved" / name, weights_only=True) for f in (one, two))
        found += [f"{part} of {name}" for part in unlike(a, b)]
    return found


def unlike(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """The names of the values that differ, but for those that measure time."""
    if name in (".seconds", ".digest", ".resume", ".config.resume", ".chosen.resume"):
        return
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys(), key=str):
            yield from unlike(a.get(key), b.get(key), f"{name}.{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from unlike(x, y, f"{name}.{n}")
    elif not (torch.equal(a, b) if torch.is_tensor(a) and torch.is_tensor(b) else a == b):
        yield name.lstrip(".")


def count(
    stage: Stage,
    times: dict[str, float],
    whole: Path,
    arguments: list[str],
    n_kills: int,
    draw: random.Random,
) -> dict[str, int]:
    """Outcome -> kills in a stage. Reasons are printed."""
    outcomes = {EQUAL: 0, DIFFERENT: 0, FAILED: 0}
    tries = 0
    while sum(outcomes.values()) < n_kills and tries < 5 * n_kills:
        tries += 1
        with tempfile.TemporaryDirectory(dir=whole.parent) as place:
            folder = Path(place)
            write_images(folder)
            found = try_kill(stage, times, folder, arguments, draw)
            if found is None:
                continue
            outcome, reason = found
            if outcome == EQUAL and (other := differences(whole, folder)):
                outcome, reason = DIFFERENT, f"{reason}: {', '.join(other)[:500]}"
        outcomes[outcome] += 1
        if outcome != EQUAL:
            print(f"{outcome}: {stage.name}: {reason}", file=sys.stderr, flush=True)
    return outcomes


def write_images(folder: Path) -> None:
    """An image of two colours for each of 1,682 items in folder/images."""
    (folder / "images").mkdir()
    draw = random.Random(0)
    for item in range(1, 1683):
        colours = [tuple(draw.randrange(256) for _ in range(3)) for _ in range(2)]
        image = Image.new("RGB", (16, 16), colours[0])
        image.paste(colours[1], (draw.randrange(8), draw.randrange(8), 12, 12))
        image.save(folder / "images" / f"{item}.png")


def main(argv: list[str] | None = None) -> int:
    """Kill, repeat, compare, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills-per-stage", type=int, default=10)
    parser.add_argument("--only", default="", help="stages whose name contains this")
    parser.add_argument("--model", default="MSCGRec")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options, settings = parser.parse_known_args(argv)
    torch.set_num_threads(1)
    import timm  # noqa: F401  before the forks, once

    from recbole_mscgrec.runner import quick_start  # noqa: F401

    all_stages = stages(options.model)
    arguments = [f"--model={options.model}", *ANY_MODEL, *settings]
    arguments += MSCGREC if options.model == "MSCGRec" else []
    total, draw = {EQUAL: 0, DIFFERENT: 0, FAILED: 0}, random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        write_images(whole)
        events = {event for s in all_stages for window in s.windows for event in window}
        times = times_of(whole, arguments, events)
        print("| stage | seconds | kills | equal | different | failed |\n|---|---|---|---|---|---|")
        for stage in all_stages:
            if options.only not in stage.name:
                continue
            first, last = stage.windows[0]
            seconds = times[last] - times[first]
            outcomes = count(stage, times, whole, arguments, options.kills_per_stage, draw)
            total = {key: total[key] + n for key, n in outcomes.items()}
            print(f"| {stage.name} | {seconds:.2f} | {_cells(outcomes)} |", flush=True)
        print(f"| all | {max(times.values()):.2f} | {_cells(total)} |")
    return 0 if total[EQUAL] == sum(total.values()) > 0 else 1


def _cells(outcomes: dict[str, int]) -> str:
    return " | ".join(str(n) for n in (sum(outcomes.values()), *outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
