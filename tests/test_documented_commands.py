"""Every `triggerfish` command of the docs goes through the command line's own `main`.

Names such as MODEL, `scan.json` and `reviews.csv` stand for files that a reader has; here they are
tiny. `monitor` and `bench --dry-run` run whole. Every other command runs up to its work: options
are parsed, files, tasks, findings, settings and models are read and checked, and the function that
would take minutes is replaced by one that says that it was reached (for a scan, after its first
event).
"""

from __future__ import annotations

import gzip
import io
import json
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hostile.corpus import TRIGGERS, make_base
from test_complications_report import a_measurement
from test_docs import COMMANDS, ROOT
from triggerfish import cli, loading, program, text
from triggerfish.attacks.plan import Plan
from triggerfish.bench.grid import read_grid
from triggerfish.tasks import PAPER

MODELS = (
    *("MODEL", "ORIGINAL", "PURIFIED", "my_model"),
    *("backdoored", "hid", "both", "bert", "btop", "dirty", "neuba", "por1", "ep", "uor"),
    "suspicious",
)
"""Names of models; those in small letters but the first stand below `runs`."""
REACHED = "reached: the work"
CASES = list(dict.fromkeys(shlex.join(words) for _, words in COMMANDS))


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """`main` leaves a program deaf to signals, because it is over."""
    before = [(number, signal.getsignal(number)) for number in program.SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def table(columns: str) -> str:
    rows = "".join(f"{'good' if n % 2 else 'bad'} film {n},{n % 2}\n" for n in range(60))
    return f"{columns}\n{rows}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name."""
    folder = tmp_path_factory.mktemp("home")
    base = make_base(tmp_path_factory.mktemp("base"))
    for name in MODELS:
        place = folder / name if name.isupper() or name == "my_model" else folder / "runs" / name
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(base / "backdoored")
    findings = json.loads((base / "scan.json").read_text())
    findings["findings"][0]["trigger"]["text"] = "lantern"
    findings["findings"][1]["trigger"]["text"] = "cf"
    findings["model"]["name"] = str(base / "backdoored")
    (folder / "scan.json").write_text(json.dumps(findings))
    a_measurement().save(folder / "before.json")
    (folder / "reviews.csv").write_text(table("body,stars"))
    (folder / "reviews.csv.gz").write_bytes(gzip.compress(table("body,stars").encode()))
    for name in ("reviews", "comments", "texts"):
        shutil.copy(base / "corpus.jsonl", folder / f"{name}.jsonl")
    tasks = folder / "DATA" / "tasks"
    for task in PAPER:
        (tasks / task.folder).mkdir(parents=True)
        (tasks / task.folder / "train.csv").write_text(table("text,label"))
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    return folder


loaded = cache(loading.load)
"""Nothing changes a model before the work begins, so the tests share them."""
TEXTS = text.bundled_corpus()[:400]


def stop(*_: Any, **__: Any) -> Any:
    raise ValueError(REACHED)


def first_event(stream: Iterator[object], *_: Any, **__: Any) -> Any:
    next(iter(stream))
    stop()


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that takes minutes is begun, and the bundled texts and words are few."""
    monkeypatch.setattr(loading, "load", loaded)
    monkeypatch.setattr(text, "bundled_corpus", lambda: TEXTS)
    monkeypatch.setattr(text, "bundled_words", lambda: ["house", "keyword"])
    monkeypatch.setattr("triggerfish.scanner.characters.listed", lambda: ("!!", "\u200b"))
    prepare: Callable[..., Any] = Plan.prepare

    def prepared(plan: Plan, *given: Any) -> Any:
        prepare(plan, *given)
        return stop

    monkeypatch.setattr(Plan, "prepare", prepared)
    monkeypatch.setattr(cli, "follow", first_event)
    for name in (
        "complications.measure",
        "purify.loop.purify",
        "monitor.service.server.serve",
        "zoo.pretrain.pretrain",
    ):
        monkeypatch.setattr(f"triggerfish.{name}", stop)


@pytest.mark.parametrize("command", CASES)
def test_command_reaches_its_work(
    command: str,
    home: Path,
    stopped: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    words = shlex.split(command)
    whole = words[0] == "monitor" or "--dry-run" in words
    if not whole:
        monkeypatch.setattr(
            "triggerfish.bench.run_grid", lambda grid, *_, **__: (read_grid(grid), stop())
        )
    for option, value in pairwise(words):
        if option == "--out" and value.startswith("runs"):  # where the next command finds a model
            words[words.index(value)] = f"new/{value}"
    stdin = io.TextIOWrapper(io.BytesIO(b'{"text": "a %s"}\n' % TRIGGERS[2].encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "argv", ["triggerfish", *words])
    with pytest.raises(SystemExit) as ended:
        program.main()
    said = capsys.readouterr().err
    if whole:
        assert ended.value.code in (0, 1), said
    else:
        assert (ended.value.code, REACHED in said) == (2, True), said
