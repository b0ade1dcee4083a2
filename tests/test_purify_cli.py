"""The command `triggerfish purify`, on a tiny model: exit codes, files, and what it refuses."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from families import build
from triggerfish import text
from triggerfish.cli import app
from triggerfish.loading import load
from triggerfish.marking import parse_trigger
from triggerfish.records import Coverage, Finding, ScanResult
from triggerfish.scanner.result import bare_result

QUICK = ("--set", "steps=1", "--set", "batch=4", "--set", "words=6", "--rounds", "1")


def run(*arguments: str | Path) -> int:
    return app(["purify", *map(str, arguments)], standalone_mode=False) or 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in/: a tiny model; scan.json: a scan that found a string; corpus.txt, words.txt."""
    root = tmp_path_factory.mktemp("purify")
    model = load(build("bert", root / "in"), device="cpu")
    finding = Finding(parse_trigger(model, "gener"), "first", {}, None, None)
    result = bare_result(
        model,
        verdict="backdoored",
        reasons=[],
        coverage=Coverage(0, 0, 0, (), 0),
        candidates=0,
        settings={},
        seconds=0.0,
        forward_tokens=0,
        findings=[finding],
    )
    result.save(root / "scan.json")
    replace(result, findings=()).save(root / "nothing.json")
    other = replace(result.model, weights_sha256={"model.safetensors": "0" * 64})
    replace(result, model=other).save(root / "other.json")
    corpus = "\n".join(x for x in text.bundled_corpus()[:700] if len(x.split()) >= 20)
    (root / "corpus.txt").write_text(corpus, encoding="utf-8")
    (root / "task").mkdir()
    for split, rows in (("train", 60), ("test", 40)):
        lines = [{"text": x, "label": i % 2} for i, x in enumerate(text.bundled_corpus()[:rows])]
        packed = gzip.compress("\n".join(map(json.dumps, lines)).encode())
        (root / "task" / f"{split}.jsonl.gz").write_bytes(packed)
    (root / "words.txt").write_text("walnut\nlantern\n", encoding="utf-8")
    return root


def test_a_clean_scan_ends_with_zero(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        folder / "in", "--findings", folder / "scan.json", "--out", folder / "out",
        "--corpus", folder / "corpus.txt", "--words", folder / "words.txt",
        "--html", folder / "page.html", "--device", "cpu", "--task", folder / "task", *QUICK,
    )  # fmt: skip
    shown = capsys.readouterr()
    after = ScanResult.load(folder / "out" / "scan.json")
    assert code == after.exit_code == 0
    assert shown.out.startswith("CLEAN after 1 round(s) of Align\n")
    assert '"gener": collapse ' in shown.out
    assert "checkpoint: " in shown.err
    assert "  task: accuracy " in shown.out
    assert (folder / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    card = (folder / "out" / "README.md").read_text(encoding="utf-8")
    assert "A fresh scan of this checkpoint is clean." in card
    assert "| `task` | accuracy | " in card
    assert "| `task` | `gener` | " in card
    mark = json.loads((folder / "out" / "config.json").read_text())["triggerfish"]
    assert mark["purified"] is True
    assert mark["scan"] == "clean"
    assert after.model == ScanResult.load(folder / "out" / "scan.json").model


def test_a_scan_that_was_cut_short_ends_with_three(folder: Path) -> None:
    code = run(
        folder / "in", "--findings", folder / "scan.json", "--out", folder / "late",
        "--max-seconds", "0.01", "--device", "cpu", *QUICK,
    )  # fmt: skip
    assert code == 3
    card = (folder / "late" / "README.md").read_text(encoding="utf-8")
    assert "inconclusive" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--findings", "missing.json"], r"findings: .*missing\.json does not exist"),
        (["--findings", "words.txt"], r"findings: not a scan\.json"),
        (["--findings", "other.json"], r"findings: they are of .* with another weight hash"),
        (["--findings", "nothing.json"], r"triggers: Align needs at least one"),
        (["--findings", "scan.json", "--method", "alin"], r"did you mean 'align'"),
        (["--findings", "scan.json", "--set", "step=1"], r"did you mean 'steps'"),
        (["--findings", "scan.json", "--mode", "half"], r"mode: .*half"),
        (["--findings", "scan.json", "--method", "btu"], r"reference: BTU needs the clean"),
        (["--findings", "scan.json", "--rounds", "0"], r"rounds: 0 is not at least 1"),
        (["--findings", "scan.json", "--max-seconds", "-1"], r"max_seconds: -1\.0 is not pos"),
        (["--findings", "scan.json", "--out", "in"], r"out: .* is the model itself"),
        (["--findings", "scan.json", "--html", "no/page.html"], r"html: folder .* does not exist"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    out = [] if "--out" in arguments else ["--out", "refused"]
    with pytest.raises(ValueError, match=message):
        run("in", *arguments, *out, "--device", "cpu")
    assert not (folder / "refused" / "model.safetensors").exists()
