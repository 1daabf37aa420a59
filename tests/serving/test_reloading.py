"""A new export in the folder of a running service."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from served import WalkModel, items_of, running

from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.serving.reloading import Reloader
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import write_json


def load(folder: str | Path) -> WalkModel:
    """Generation g of the catalogue has 50 + g items."""
    content = json.loads((Path(folder) / "manifest.json").read_text())
    if "fault" in content:
        raise {"user": UserError, "bug": KeyError}[content["fault"]]("codes.safetensors is damaged")
    return WalkModel(50 + content["generation"], content["generation"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path / "manifest.json", {"generation": 0})
    return tmp_path


def reloads(metrics: Metrics) -> tuple[int, int]:
    """How many were loaded, and how many failed."""
    lines = metrics.text().splitlines()
    kept = [line for line in lines if line.startswith("mscgrec_reloads_total")]
    return int(kept[1].split()[-1]), int(kept[0].split()[-1])


def test_only_a_change_is_loaded(folder: Path) -> None:
    metrics = Metrics()
    reloader = Reloader(folder, load, metrics)
    assert reloader.poll() is None
    write_json(folder / "manifest.json", {"generation": 1})
    loaded = reloader.poll()
    assert loaded is not None and loaded.generation == 1
    assert reloader.poll() is None and reloads(metrics) == (1, 0)


def test_a_file_of_the_same_size_and_time_is_a_change(folder: Path) -> None:
    file = folder / "manifest.json"
    reloader = Reloader(folder, load, Metrics())
    before = file.stat()
    write_json(file, {"generation": 1})  # a new file replaces the old one
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reloader.poll() is not None


def test_a_missing_manifest_is_waited_for(folder: Path) -> None:
    metrics = Metrics()
    reloader = Reloader(folder, load, metrics)
    (folder / "manifest.json").unlink()
    assert reloader.poll() is None and reloads(metrics) == (0, 0)
    write_json(folder / "manifest.json", {"generation": 2})
    loaded = reloader.poll()
    assert loaded is not None and loaded.generation == 2


def test_somebody_asks(folder: Path) -> None:
    reloader = Reloader(folder, load, Metrics())
    reloader.ask()
    assert reloader.poll() is not None and reloader.poll() is None


@pytest.mark.parametrize("fault", ["user", "bug"])
def test_a_folder_that_cannot_be_loaded_is_logged_counted_and_tried_once(
    folder: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    metrics = Metrics()
    reloader = Reloader(folder, load, metrics)
    write_json(folder / "manifest.json", {"fault": fault})
    assert reloader.poll() is None and reloader.poll() is None
    assert reloads(metrics) == (0, 1)
    assert f"{folder} cannot be loaded; the old generation stays in use: " in caplog.text
    assert "codes.safetensors is damaged" in caplog.text
    assert ("Traceback" in caplog.text) == (fault == "bug")
    write_json(folder / "manifest.json", {"generation": 3})
    assert reloader.poll() is not None and reloads(metrics) == (1, 1)


def test_a_copy_whose_manifest_came_first_is_loaded_when_it_is_complete(folder: Path) -> None:
    metrics = Metrics()

    def whole(folder: str | Path) -> WalkModel:
        if not (Path(folder) / "titles-1.txt").is_file():
            raise UserError("titles-1.txt is missing")
        return load(folder)

    reloader = Reloader(folder, whole, metrics)
    write_json(folder / "manifest.json", {"generation": 1})
    (folder / ".titles-1.txt.Xa7").write_text("half")  # of rsync
    assert reloader.poll() is None and reloader.poll() is None and reloads(metrics) == (0, 1)
    (folder / ".titles-1.txt.Xa7").rename(folder / "titles-1.txt")
    loaded = reloader.poll()
    assert loaded is not None and loaded.generation == 1
    (folder / "encoder.pt2").write_text("another file")  # now only the manifest counts again
    assert reloader.poll() is None and reloads(metrics) == (1, 1)


def test_a_reload_under_load_drops_nothing(folder: Path) -> None:
    """Each answer is that of the generation it names; old ones first, then new ones."""
    first = load(folder)
    first.seconds = 0.002
    seen: list[list[int]] = [[] for _ in range(4)]
    done = threading.Event()

    def client(generations: list[int]) -> None:
        while not done.is_set():
            reply = made.ask("/recommend", {"histories": [["i49"]], "top": 1})
            assert reply.status == 200
            generation = reply.content["generation"]
            expected = f"i{50 % (50 + generation)}"
            assert items_of(reply.content["recommendations"][0]) == [expected]
            generations.append(generation)

    with running(first) as made:
        reloader = Reloader(folder, load, made.service.metrics, every=0.01)
        reloader.start(made.service.batcher.swap)
        clients = [threading.Thread(target=client, args=(one,)) for one in seen]
        for thread in clients:
            thread.start()
        limit = time.monotonic() + 30
        for generation in range(4):
            if generation:
                write_json(folder / "manifest.json", {"generation": generation})
            while not all(generation in one for one in seen) and time.monotonic() < limit:
                time.sleep(0.01)
        done.set()
        for thread in clients:
            thread.join(10)
        reloader.stop()
    for generations in seen:
        assert generations == sorted(generations) and set(generations) == {0, 1, 2, 3}
    assert reloads(made.service.metrics) == (3, 0)
