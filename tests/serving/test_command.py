"""`recbole-mscgrec serve` in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from exports import tiny_export
from served import ask, items_of

import recbole_mscgrec
from recbole_mscgrec.cli import main
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.command import parser
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage.files import write_json

HERE = Path(__file__).resolve().parent.parent
# The command line with a model of known answers, so that a request takes as long as a test wants.
PROGRAM = """
import json, sys, types
from pathlib import Path
from served import WalkModel
from recbole_mscgrec.cli import main

class Recommender(WalkModel):
    @classmethod
    def load(cls, folder, *_):
        content = json.loads((Path(folder) / "manifest.json").read_text())
        return cls(**content)

module = types.ModuleType("recbole_mscgrec.serving.recommender")
module.Recommender = Recommender
sys.modules[module.__name__] = module
sys.exit(main(sys.argv[1:]))
"""
REAL = "import sys; from recbole_mscgrec.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def serving(
    folder: Path, *options: str, program: str = PROGRAM
) -> Iterator[tuple[subprocess.Popen, int]]:
    """The process and its port, once it says that it serves."""
    package = Path(recbole_mscgrec.__file__).resolve().parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(folder), "--port=0", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(package)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a script, SIGINT is ignored, also by children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"Serving (.+) on http://127\.0\.0\.1:(\d+)\n", line)
        assert found, process.communicate(timeout=10)
        yield process, int(found[2])
    finally:
        process.kill()
        process.communicate(timeout=10)


def slowly(port: int) -> list[str]:
    """The items of a request that takes as long as the model does."""
    reply = ask(port, "/recommend", {"histories": [["i1"]], "top": 2})
    assert reply.status == 200
    return items_of(reply.content["recommendations"][0])


def waits(port: int) -> None:
    """Until the model has begun with the slow request."""
    while "batch_histories_count 1\n" not in ask(port, "/metrics").content:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_requests_in_work(tmp_path: Path, number: signal.Signals) -> None:
    write_json(tmp_path / "manifest.json", {"seconds": 0.6})
    with serving(tmp_path) as (process, port), ThreadPoolExecutor(1) as pool:
        in_work = pool.submit(slowly, port)
        waits(port)
        process.send_signal(number)
        assert in_work.result() == ["i2", "i3"]
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0 and out == ""
    assert "Stopping after the requests in progress." in err and "Traceback" not in err
    with pytest.raises(ConnectionError):
        ask(port, "/health")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"seconds": 0.4})
    with serving(tmp_path, "--max_batch=1") as (process, port), ThreadPoolExecutor(40) as pool:
        for _ in range(40):  # 16 seconds of work
            pool.submit(slowly, port)
        waits(port)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert time.monotonic() - begin < 6
    assert process.returncode == 130 and "Traceback" not in err


@pytest.mark.slow
def test_a_new_export_and_sighup_reload(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"generation": 0})
    with serving(tmp_path, "--reload_seconds=0.05") as (process, port):

        def becomes(line: str) -> None:
            limit = time.monotonic() + 10
            while line not in (text := ask(port, "/metrics").content):
                assert time.monotonic() < limit, text
                time.sleep(0.02)

        write_json(tmp_path / "manifest.json", {"generation": 1, "n_items": 60})
        becomes("mscgrec_generation 1\n")
        assert ask(port, "/health").content["items"] == 60
        process.send_signal(signal.SIGHUP)
        becomes('mscgrec_reloads_total{result="ok"} 2\n')
        # A model that loads but cannot answer is not taken.
        write_json(tmp_path / "manifest.json", {"generation": 2, "n_items": 0})
        becomes('mscgrec_reloads_total{result="failed"} 1\n')
        assert ask(port, "/health").content["generation"] == 1
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    assert f"Now serving generation 1 of {tmp_path}: 60 items." in err


def test_a_real_export_is_served_and_a_new_generation_of_it(tmp_path: Path) -> None:
    export = tiny_export()
    export_folder.write(tmp_path, export)
    asked = {"histories": [["a1", "a2"]], "top": 3}

    def check(port: int, generation: int) -> None:
        known = Recommender.load(tmp_path).recommend(asked["histories"], top=3)[0]
        content = ask(port, "/recommend", asked).content
        (ranked,) = content["recommendations"]
        assert content["generation"] == generation and items_of(ranked) == items_of(known)
        assert [r["title"] for r in ranked] == [f"Title {r.item[1:]}" for r in known]
        assert [tuple(r["code"]) for r in ranked] == [r.code for r in known]
        assert [r["score"] for r in ranked] == pytest.approx([r.score for r in known], abs=1e-4)

    with serving(tmp_path, "--reload_seconds=0.05", "--threads=1", program=REAL) as (_, port):
        check(port, 1)
        reply = ask(port, "/recommend", {"histories": [["a1", "zzz"]]})
        assert reply.status == 422 and "unknown item 'zzz'" in reply.content["error"]
        export_folder.write(tmp_path, tiny_export(seed=1, generation=2))
        limit = time.monotonic() + 20
        while ask(port, "/health").content["generation"] == 1 and time.monotonic() < limit:
            time.sleep(0.02)
        check(port, 2)


# --- errors ---------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error."""
    assert main(["serve", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_folder_without_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} is not an export folder" in refused(capsys, str(tmp_path), "--port=0")


def test_a_device_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_folder.write(tmp_path, tiny_export())
    line = refused(capsys, str(tmp_path), "--port=0", "--device=gpu")
    assert line.startswith("error: The device gpu cannot be used (")


def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told before the model is loaded, which takes longer."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refused(capsys, str(tmp_path), f"--port={port}")
    assert line.startswith(f"error: Cannot listen on 127.0.0.1 port {port}: ")


def test_a_missing_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == "uvicorn" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    line = refused(capsys, "folder")
    assert line == "error: serve needs uvicorn: run pip install 'recbole-mscgrec[serve]'."


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port=70000", "--port: must be a whole number, 0 to 65535, not '70000'"),
        ("--queue=0", "--queue: must be a whole number, at least 1, not '0'"),
        ("--max_batch=x", "--max_batch: must be a whole number, at least 1, not 'x'"),
        ("--timeout=0", "--timeout: must be a number, at least 0.001, not '0'"),
        ("--timeout=inf", "--timeout: must be a number, at least 0.001, not 'inf'"),
        ("--batch_wait_ms=nan", "--batch_wait_ms: must be a number, at least 0, not 'nan'"),
        ("--batch_wait_ms=-1", "--batch_wait_ms: must be a number, at least 0, not '-1'"),
        ("--prot=1", "unrecognized arguments: --prot=1"),
    ],
)
def test_wrong_options(capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", "folder", option])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_the_page_has_every_option_with_its_default_and_every_metric() -> None:
    page = (HERE.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(--\w+)` \| .* \| (.+) \|$", page, flags=re.M))
    for action in parser()._actions:
        if action.option_strings and action.dest != "help":
            default = action.default
            shown = f"{default:g}" if isinstance(default, float) else str(default or "–")
            assert rows.pop(action.option_strings[0]).replace(",", "") == shown
    assert not rows
    names = re.findall(
        r"^# TYPE (\w+)", Metrics().text(queue_length=0, generation=0, items=0), re.M
    )
    assert [name for name in names if f"`{name}`" not in page] == []


def test_it_listens_on_this_machine_only_unless_told_otherwise() -> None:
    options = parser().parse_args(["folder"])
    assert (options.host, options.port) == ("127.0.0.1", 8080)
