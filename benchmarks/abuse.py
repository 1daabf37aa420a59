"""Hostile and unlucky inputs: how many are refused clearly, how many are survived, how many fail.

    python benchmarks/abuse.py
    python benchmarks/abuse.py --only=resume --show

Every case runs the command line in a process of its own, in a copy of a folder that holds a toy
data set and a trained model. A case is refused clearly if the command ends with status 1 or 2 and
one line that begins with `error: ` and contains the text that the case asks for. It is survived if
the command ends with status 0, or with 130 after Ctrl-C. Everything else is a failure: a
traceback, a wrong text, an end that the case does not expect, a process that does not end.

To add cases, add entries to a list in `cases`. The exit status is 1 if any case failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from recbole_mscgrec import cli
from recbole_mscgrec.config import ranges
from recbole_mscgrec.config.config import properties_folder

REFUSED, SURVIVED, FAILED = "refused clearly", "survived", "failed"
SECONDS = 120  # that a case may take
PLAIN = ("--dataset=toy", "--data_path=data", "--epochs=2", "--use_gpu=False")  # of any model
COMMON = (*PLAIN, "--codebook_size=16", "--hidden_size=32", "--collaborative_epochs=2")


class Case(NamedTuple):
    """One input. `arguments` are added to `common`."""

    name: str
    arguments: tuple[str, ...] = ()
    expect: str = REFUSED  # or SURVIVED
    says: str = ""  # what the error, or the output of a survived case, must contain
    prepare: Callable[[Path], object] | None = None  # changes the folder before the command
    after: Callable[[Path], str] | None = None  # what is wrong in the folder afterwards, or ''
    interrupt_at: str = ""  # Ctrl-C as soon as the output contains this
    by: signal.Signals = signal.SIGINT
    common: tuple[str, ...] = COMMON


def cases() -> dict[str, list[Case]]:
    """Group -> its cases."""
    return {
        "settings out of range": list(_out_of_range()),
        "settings": _settings(),
        "data": _data(),
        "folders": _folders(),
        "stop and go on": _stops(),
    }


def _out_of_range() -> Iterable[Case]:
    """For each rule in the YAML files, values that it does not allow."""
    folder = properties_folder()
    rules = ranges.rules_of([folder / "overall.yaml", folder / "model" / "MSCGRec.yaml"])
    for key, rule in rules.items():
        if not rule.decides():
            continue
        below = rule.least - 1 if rule.least_allowed else rule.least
        number = int(below) if below > -float("inf") else "nan"
        values = ["{'a': 1}"] if "dict" not in rule.types else ["5"]
        values += ["abc"] if rule.types != ("str",) or rule.choices else []
        values += [str(number), "1e999"] if {"int", "float"} & set(rule.types) else ["[[]]"]
        for value in values:
            if not (key == "checkpoint_dir" or rule.allows(cli_value(key, value))):
                yield Case(f"{key}={value}", (f"--{key}={value}",), says=key)


def cli_value(key: str, text: str) -> object:
    """What the command line makes of a text."""
    from recbole_mscgrec.config.parsing import parse_value

    return parse_value(key, text)


def _settings() -> list[Case]:
    return [
        Case("a model by letter case", ("--model=MSCGrec",), says="did you mean MSCGRec"),
        Case("an unknown model", ("--model=Foo",), says="'Foo' is not known"),
        *(
            Case(f"{key} of SASRec", ("--model=SASRec", f"--{key}={value}"), says=key, common=PLAIN)
            for key, value in (("epochs", "0"), ("learner", "foo"), ("train_batch_size", "-1"))
        ),
        Case("an unknown key", ("--epoch=3",), says="epoch"),
        Case("learner", ("--learner=foo",), says="one of adam"),
        Case("an interval", ("--item_inter_num_interval=foo",), says="interval"),
        Case("an empty interval", ("--user_inter_num_interval=[9,3]",), says="interval"),
        Case("max_distance", ("--max_distance=0",), says="max_distance"),
        Case("max_distance below the buckets", ("--max_distance=9",), says="max_distance"),
        Case("length", ("--MAX_ITEM_LIST_LENGTH=100000000000",), says="GiB"),
        Case("codes_file", ("--codes_file={'text':5}",), says="codes_file"),
        Case("vectors_file", ("--vectors_file={'text':['a']}",), says="vectors_file"),
        Case("clip_grad_norm", ("--clip_grad_norm=5",), says="clip_grad_norm"),
        Case("encoding", ("--encoding=foo",), says="encoding"),
        Case("heads", ("--n_heads=5",), says="n_heads"),
        Case("heads of SASRec", ("--collaborative_n_heads=5",), says="collaborative_n_heads"),
        Case("codebooks", ("--codebook_size=41",), says="codebook_size"),
        Case("levels", ("--codebook_size=[4,4]",), says="n_levels"),
        Case("a text encoder", ("--text_encoder=nope",), says="text_encoder 'nope'"),
        Case("a modality", ("--modalities=['smell']",), says="smell"),
        Case("a metric", ("--metrics=['Foo']",), says="Foo"),
        Case("topk", ("--topk=[0]",), says="topk"),
        Case("longer lists than the catalogue", ("--topk=[10,100000]",), SURVIVED),
        Case("a beam beyond the catalogue", ("--beam_size=1000000",), SURVIVED),
        Case("a huge width", ("--hidden_size=4000000000",), says=""),
        Case("a huge batch", ("--train_batch_size=1000000000000",), SURVIVED),
        Case("a validation metric", ("--valid_metric=Foo@10",), says="valid_metric"),
        Case("a mode", ("--eval_args={'mode': 'foo'}",), says="mode"),
        Case("a part of eval_args", ("--eval_args={'foo': 1}",), says="foo"),
        Case("columns", ("--load_col={'inter': ['x']}",), says="load_col"),
        Case("a saved model", ("--model_file=gone.pth",), says="gone.pth"),
        Case("a first model", ("--initial_model=data/toy/toy.inter",), says="toy.inter"),
        Case("a configuration", ("--config_files", "gone.yaml"), says="gone.yaml"),
        Case("two languages", ("--text_columns=['\u00e4\u00f6']",), says="text_columns"),
        Case("code in a setting", ("--topk=__import__('os').system('touch p')",), after=_no_p),
    ]


def _no_p(folder: Path) -> str:
    return "the code ran" if (folder / "p").exists() else ""


def _data() -> list[Case]:
    def write(name: str, text: str | bytes) -> Callable[[Path], object]:
        content = text.encode() if isinstance(text, str) else text
        return lambda folder: (folder / "data" / "toy" / name).write_bytes(content)

    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    return [
        Case(".item with a header only", prepare=write("toy.item", "item_id:token\ttitle:token\n")),
        Case(".item of other items", prepare=write("toy.item", "item_id:token\tt:token\nx\ty\n")),
        Case(".inter empty", prepare=write("toy.inter", "")),
        Case(".inter with a header only", prepare=write("toy.inter", header)),
        Case(".inter without types", prepare=write("toy.inter", "user\titem\nu\ti\n")),
        Case(".inter with one row", prepare=write("toy.inter", f"{header}u\ti\t1\n")),
        Case(".inter of noise", prepare=write("toy.inter", random.Random(0).randbytes(4000))),
        Case("no data set", ("--dataset=gone",), says="gone"),
        Case("no folder", ("--data_path=gone",), says="gone"),
    ]


def _folders() -> list[Case]:
    def block(folder: Path) -> None:
        (folder / "blocked").write_text("a file, not a folder")

    places = {"checkpoint_dir": "a", "cache_dir": "a", "log_dir": "a"}
    places |= {"result_file": "r.json", "per_user_file": "r.npz"}
    return [
        *(
            Case(f"{key} in a file", (f"--{key}=blocked/{name}",), REFUSED, key, block)
            for key, name in places.items()
        ),
        Case("result_file is a folder", ("--result_file=data",), says="result_file"),
        Case(
            "logs elsewhere",
            ("--log_dir=logs", "--model=Pop"),
            SURVIVED,
            common=PLAIN,
            after=lambda folder: "" if (folder / "logs" / "log" / "Pop").is_dir() else "no log",
        ),
    ]


def _stops() -> list[Case]:
    fresh = "--seed=7"  # no stage of the trained model fits

    def left_over(folder: Path) -> None:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        (folder / "saved" / f"a.pth.{ended.pid}.tmp").write_text("")

    def no_left_over(folder: Path) -> str:
        left = [str(file) for file in folder.rglob("*.tmp")]
        return f"left: {left}" if left else ""

    resume = (fresh, "--resume=True")
    long = ("--collaborative_epochs=9999", "--collaborative_patience=9999")
    return [
        Case("resume, nothing there", resume, SURVIVED, "starts with the first epoch"),
        Case("resume an ended run", ("--resume=True",), SURVIVED, "already ended"),
        Case("left over files", (), SURVIVED, "", left_over, no_left_over),
        Case("Ctrl-C in SASRec", (fresh, *long), SURVIVED, "are kept in", None, None, "hold text"),
        Case(
            *("Ctrl-C in the training", (fresh, "--epochs=9999", "--stopping_step=9999")),
            *(SURVIVED, "--resume=True", None, None, "epoch 1 training"),
        ),
        Case(
            *("SIGTERM in the training", (fresh, "--epochs=9999", "--stopping_step=9999")),
            *(SURVIVED, "--resume=True", None, None, "epoch 1 training", signal.SIGTERM),
        ),
        Case("Ctrl-C during the import", (), SURVIVED, prepare=_interrupted_import),
        Case(
            *("SIGKILL in the training", (*resume, "--epochs=12"), SURVIVED, "Resume training"),
            *(_killed, no_left_over),
        ),
        Case("two tables", prepare=_two_tables, arguments=("--resume=True",), expect=SURVIVED),
    ]


def _interrupted_import(folder: Path) -> None:
    """Ctrl-C in the first second, in which torch is imported."""
    shell = [sys.executable, "-m", "recbole_mscgrec", *COMMON]
    with subprocess.Popen(shell, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    if process.returncode != 130 or said != "Stopped.\n":
        raise RuntimeError(f"status {process.returncode}: {said[-300:]}")


def _killed(folder: Path) -> None:
    """SIGKILL after the first epoch of a training, and the files of this moment."""
    killed = Case(
        "", ("--seed=7", "--epochs=12"), interrupt_at="epoch 1 training", by=signal.SIGKILL
    )
    status, output = command(folder, killed)
    if status != -signal.SIGKILL:
        raise RuntimeError(f"status {status}: {output[-300:]}")


def _two_tables(folder: Path) -> None:
    """Two processes share a table, the second one starts a second later."""
    command = [sys.executable, "-m", "recbole_mscgrec", "--model_list=TiledSASRec,TiledGRU4Rec"]
    command += "--dataset=toy --data_path=data --epochs=1 --seed_list=1,2 --table_dir=t".split()
    running = []
    for _ in range(2):
        running.append(subprocess.Popen(command, cwd=folder, stdout=-3, stderr=-3))
        time.sleep(1)
    if any([process.wait() for process in running]):
        raise RuntimeError("a table lacks cells")


# --- running --------------------------------------------------------------------------------------


def write_toy(folder: Path) -> None:
    """60 users, 40 items with titles, 720 rows."""
    folder.mkdir(parents=True)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    rows += [f"u{u}\ti{(7 * u + t) % 40}\t{t}" for u in range(60) for t in range(12)]
    (folder / "toy.inter").write_text("\n".join(rows) + "\n")
    items = ["item_id:token\ttitle:token_seq"]
    items += [f"i{i}\tname{i} five{i // 5} three{i % 3}" for i in range(40)]
    (folder / "toy.item").write_text("\n".join(items) + "\n")


def run_here(folder: Path, arguments: list[str]) -> None:
    """The command line in a forked process, whose output goes to output.txt of the folder."""
    os.chdir(folder)
    out = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = cli.main(arguments)
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    sys.stdout.flush()
    os._exit(status)


def command(folder: Path, case: Case) -> tuple[int | None, str]:
    """Exit status, None if the process did not end, and output of a case."""
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=run_here, args=(folder, [*case.common, *case.arguments]))
    process.start()
    output, until = folder / "output.txt", time.monotonic() + SECONDS
    pressed = not case.interrupt_at
    while process.is_alive() and time.monotonic() < until:
        process.join(0.05)
        if not pressed and output.is_file() and case.interrupt_at in output.read_text("utf-8"):
            time.sleep(0 if case.by == signal.SIGKILL else 0.5)
            os.kill(process.pid or 0, case.by)
            pressed = True
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    return status, output.read_text("utf-8", errors="replace") if output.is_file() else ""


def judge(case: Case, status: int | None, output: str, wrong: str = "") -> tuple[str, str]:
    """The outcome of a case, and why it failed."""
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    text, reason = output, wrong
    if case.expect == REFUSED:
        text = errors[0] if errors else "".join(output.splitlines()[-1:])
        right = status == 2 or (status == 1 and len(errors) == 1)
    else:
        right = status == (130 if case.interrupt_at else 0)
    if status is None:
        reason = f"did not end in {SECONDS} s"
    elif "Traceback" in output or "This is a bug" in output:
        reason = f"a traceback: {output.splitlines()[-1]}"
    elif not right:
        reason = f"status {status}: {output[-300:]}"
    elif case.says not in text:
        reason = f"does not say {case.says!r}: {text[-300:]}"
    return (FAILED, reason) if reason else (case.expect, "")


def try_case(case: Case, trained: Path) -> tuple[str, str]:
    """The outcome of a case in a copy of the folder `trained`, and why it failed."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "case"
        shutil.copytree(trained, folder)
        try:
            if case.prepare is not None:
                case.prepare(folder)
        except RuntimeError as error:
            return FAILED, str(error)
        status, output = command(folder, case)
        return judge(case, status, output, case.after(folder) if case.after else "")


def main(argv: list[str] | None = None) -> int:
    """Run the cases and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose group or name contains this")
    parser.add_argument("--show", action="store_true", help="print every case")
    options = parser.parse_args(argv)
    from recbole_mscgrec.runner import quick_start  # noqa: F401  before the forks, once

    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        trained = Path(place) / "trained"
        write_toy(trained / "data" / "toy")
        status, output = command(trained, Case("train", expect=SURVIVED))
        if status != 0:
            print(output)
            return 1
        print("| group | tried | refused clearly | survived | failed |\n|---|---|---|---|---|")
        for group, members in cases().items():
            mine: Counter[str] = Counter()
            for case in members:
                if options.only in f"{group}: {case.name}":
                    outcome, reason = try_case(case, trained)
                    mine[outcome] += 1
                    if reason or options.show:
                        print(f"{outcome}: {group}: {case.name} {reason}", file=sys.stderr)
            counts += mine
            print(f"| {group} | {_cells(mine)} |", flush=True)
        print(f"| all | {_cells(counts)} |")
    return 1 if counts[FAILED] else 0


def _cells(counts: Counter[str]) -> str:
    return " | ".join(str(n) for n in (counts.total(), *(counts[x] for x in OUTCOMES)))


OUTCOMES = (REFUSED, SURVIVED, FAILED)

if __name__ == "__main__":
    sys.exit(main())
