"""The commands of docs/tutorial.md, run one after the other as a reader runs them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_mscgrec

PROJECT = Path(recbole_mscgrec.__file__).resolve().parent.parent
PAGE = (PROJECT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PORT = "8123"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_the_commands_of_the_tutorial(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    for name in ("examples", "run_recbole_mscgrec.py"):
        (tmp_path / name).symlink_to(PROJECT / name)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, call in (("recbole-mscgrec", "-m recbole_mscgrec"), ("python", "")):
        file = bin_folder / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        file.chmod(0o755)
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S))
    python = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    before_end = commands.rindex("kill %1")
    (tmp_path / "page.py").write_text("".join(python))
    script_text = f"{commands[:before_end]}python page.py\n{commands[before_end:]}"
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "OMP_NUM_THREADS": "1",
    }
    script = "trap 'kill %1 2> /dev/null || true' EXIT\n" + script_text.replace(PORT, free_port())
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    out = done.stdout
    card = re.search(r"\| after \| interactions.*?\n```", PAGE, flags=re.S)
    assert card is not None and card.group().removesuffix("```") in out
    assert "Made data/shop" in out and "Made data/orders" in out
    # Codes, and so what shares a level with what, may differ from one processor to the next.
    explained = re.findall(r"^\d +B\d{5} .*\n      shares (?:no level|\d of \d levels) ", out, re.M)
    assert out.count("rank  item    title") == 3 and len(explained) == 3
    assert (tmp_path / "page.html").stat().st_size > 2000
    assert "Generation 1 with 166 items: export" in out
    assert '"status": "ok", "items": 166, "generation": 1' in out
    last = re.findall(r'{"recommendations": .*?"generation": \d+}', out)[-1]
    assert last.endswith('"generation": 2}')
    new = (tmp_path / "shop" / "new-products.item").read_text().splitlines()[1:]
    assert any(f'"item": "{line.split(chr(9))[0]}"' in last for line in new)
    printed = [line.split() for line in out.splitlines() if re.match(r"B\d{5} -\d", line)]
    assert len(printed) == 3 and {item for item, _ in printed}.isdisjoint({"B00000", "B00003"})
