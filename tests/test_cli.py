"""What a user types: help without torch, and bad input as one clear line with exit code 2."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from planted import planted
from report_samples import a_result, backdoored
from triggerfish.facts import facts
from triggerfish.loading import bundled, load
from triggerfish.records import Finding, ScanResult, Trigger

COMMAND = [sys.executable, "-m", "triggerfish"]


def surroundings(cache: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


def run(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=surroundings(cache),
    )


def interrupt(*arguments: str | Path, cache: Path, when: str) -> tuple[int, str]:
    """Exit code and stderr of a command that gets a Ctrl-C once its stderr says `when`."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings(cache),
        # A shell in the background starts its commands deaf to Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        said = ""
        while when and when not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        time.sleep(0 if when else 3)
        process.send_signal(signal.SIGINT)
        return process.wait(60), said + process.stderr.read()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled PLM, to be damaged."""
    return Path(shutil.copytree(bundled(), tmp_path / "model"))


def damage_pickle(model: Path) -> list[str]:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    return [str(model)]


def damage_tokenizer(model: Path) -> list[str]:
    config = json.loads((model / "config.json").read_text())
    weights = load_file(model / "model.safetensors")
    key = next(key for key in weights if key.endswith("word_embeddings.weight"))
    weights[key] = weights[key][:5000].clone()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 5000}))
    return [str(model)]


def damage_no_tokenizer(model: Path) -> list[str]:
    for file in model.glob("tokenizer*"):
        file.unlink()
    return [str(model)]


def damage_nan(model: Path) -> list[str]:
    weights = load_file(model / "model.safetensors")
    key = next(key for key in weights if key.endswith("word_embeddings.weight"))
    weights[key][3, 3] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return [str(model)]


def damage_missing_weights(model: Path) -> list[str]:
    weights = load_file(model / "model.safetensors")
    kept = {key: tensor for key, tensor in weights.items() if "layer.1.output" not in key}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})
    return [str(model)]


def damage_truncated(model: Path) -> list[str]:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: len(data) // 2])
    return [str(model)]


def empty_corpus(model: Path) -> list[str]:
    (model / "empty.txt").write_text("\n \n")
    return [str(model), "--corpus", str(model / "empty.txt")]


def binary_corpus(model: Path) -> list[str]:
    (model / "binary.txt").write_bytes(bytes(range(256)) * 10)
    return [str(model), "--corpus", str(model / "binary.txt")]


def no_config(model: Path) -> list[str]:
    (model.parent / "empty").mkdir()
    return [str(model.parent / "empty")]


CASES = {
    "missing": (lambda model: [str(model / "nowhere")], "model: .*nowhere"),
    "no config": (no_config, "model: .*config.json"),
    "pickle": (damage_pickle, "model: .*pickle.*--allow-pickle"),
    "tokenizer": (damage_tokenizer, "tokenizer: .*fit"),
    "no tokenizer": (damage_no_tokenizer, "model: cannot load|tokenizer: "),
    "nan": (damage_nan, "model: weight .*word_embeddings.* NaN"),
    "missing weights": (damage_missing_weights, "model: .*lacks"),
    "truncated": (damage_truncated, "model: cannot load"),
    "empty corpus": (empty_corpus, "corpus: .*no text"),
    "binary corpus": (binary_corpus, "corpus: .*UTF-8"),
    "no corpus": (lambda model: [str(model), "--corpus", "nowhere.txt"], "corpus: nowhere.txt"),
    "no words": (lambda model: [str(model), "--words", "nowhere.txt"], "words: nowhere.txt"),
    "device": (lambda model: [str(model), "--device", "cuda:99"], "device: cuda:99"),
    "device name": (lambda model: [str(model), "--device", "tpu"], "device: 'tpu'"),
    "alpha": (lambda model: [str(model), "--alpha", "7"], "alpha: 7"),
    "budget": (lambda model: [str(model), "--budget", "-1"], "budget_seconds: -1"),
    "out": (lambda model: [str(model), "--out", "nowhere/x.json"], "out: folder nowhere"),
    "option": (lambda model: [str(model), "--nonsense"], "nonsense"),
    "format": (lambda model: [str(model), "--format", "pdf"], "pdf"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_exit_code_2(case: str, model: Path, tmp_path: Path) -> None:
    arguments, message = CASES[case]
    done = run("scan", *arguments(model), cache=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("scan", tmp_path / "nowhere", "--debug", cache=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_pickle_loads_with_the_flag(model: Path, tmp_path: Path) -> None:
    arguments = [*damage_pickle(model), "--allow-pickle", "--budget", "0.01"]
    assert run("scan", *arguments, cache=tmp_path).returncode == 3


def test_an_interrupted_scan_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    fast = ("max_words=500", "characters=false", "rewrites=false", "second_candidates=500")
    settings = [x for setting in fast for x in ("--set", setting)]
    scan = ("scan", "bundled", "--method", "screening", *settings, "--format", "json")
    code, said = interrupt(*scan, cache=tmp_path, when="3 of ")
    assert code == 130
    folder = tmp_path / "triggerfish" / "scans"
    last = said.splitlines()[-1]
    assert last == f"interrupted; the same command continues where it stopped (kept in {folder})"
    listed = run("cache", cache=tmp_path).stdout
    assert re.search(r"UTC +\d+\.\d MB +interrupted scan of bundled$", listed, re.M), listed
    again = run(*scan, cache=tmp_path)
    assert again.stderr.count("resumed") == 1
    result = ScanResult.from_json(again.stdout)
    assert result.provenance.runs == 2
    assert result.provenance.command == "triggerfish " + " ".join(scan)
    assert "interrupted scan" not in run("cache", cache=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "when"),
    [
        (("scan", "bundled", "--method", "fixed-rule"), "2 of "),
        (("attack", "por", "bundled", "--trigger", "cf", "--out", "OUT"), "planting"),
        (("monitor", "-", "--findings", "FINDINGS"), ""),
    ],
)
def test_what_keeps_nothing_promises_nothing_when_interrupted(
    arguments: tuple[str, ...], when: str, tmp_path: Path
) -> None:
    findings = tmp_path / "scan.json"
    model = load("bundled", device="cpu")
    found = Finding(Trigger(model.word_ids("cf"), "cf"), "first", {}, None, None)
    a_result(model=facts(model), verdict="backdoored", findings=(found,)).save(findings)
    places = {"OUT": str(tmp_path / "out"), "FINDINGS": str(findings)}
    given = [places.get(x, x) for x in arguments]
    code, said = interrupt(*given, cache=tmp_path, when=when)
    assert code == 130, said
    assert said.splitlines()[-1] == "interrupted"
    assert not (tmp_path / "out").exists()


def test_a_training_in_the_zoo_says_that_it_continues(tmp_path: Path) -> None:
    arguments = ("zoo", "pretrain", "bert", "--size", "tiny", "--out", tmp_path / "out")
    code, said = interrupt(*arguments, cache=tmp_path, when="train")
    assert code == 130
    assert said.splitlines()[-1] == "interrupted; the same command continues where it stopped"


def test_the_cache_is_shown_and_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "triggerfish"
    assert run("cache", cache=tmp_path).stdout == f"{folder}: 0.0 MB\n"
    for name, size in (("scans/ab12", 3_000_000), ("bench/implant", 1_000_000)):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.safetensors").write_bytes(bytes(size))
    lines = run("cache", cache=tmp_path).stdout.splitlines()
    assert lines[0] == f"{folder}: 4.0 MB"
    assert re.fullmatch(r"  20\d\d-\d\d-\d\d .* UTC +3.0 MB  interrupted scan of ab12", lines[1])
    assert lines[2].endswith("1.0 MB  bench: implant")
    assert run("cache", "clear", cache=tmp_path).stdout == f"{folder}: 4.0 MB removed\n"
    assert run("cache", cache=tmp_path).stdout == f"{folder}: 0.0 MB\n"


def test_a_scan_shows_text_on_a_terminal_and_a_page_elsewhere(tmp_path: Path) -> None:
    findings = tmp_path / "scan.json"
    backdoored().save(findings)
    assert run("report", findings, cache=tmp_path).stdout.startswith("<!doctype html>")
    terminal, other = pty.openpty()
    arguments = [*COMMAND, "report", str(findings)]
    subprocess.run(arguments, stdout=other, env=surroundings(tmp_path), check=True, timeout=60)
    os.close(other)
    assert os.read(terminal, 200).startswith(b"BACKDOORED")
    os.close(terminal)


def test_a_mistyped_folder_is_called_one(tmp_path: Path) -> None:
    done = run("scan", "nosuchdir", cache=tmp_path)
    assert done.returncode == 2
    assert "nosuchdir: it is no folder here" in done.stderr


def test_help_needs_no_torch() -> None:
    code = "import sys; from triggerfish import cli; assert 'torch' not in sys.modules; cli.main()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "scan" in done.stdout


def test_version_and_short_help_with_every_option_in_a_group() -> None:
    from importlib.metadata import version

    from typer.testing import CliRunner

    from triggerfish.cli import app

    said = CliRunner().invoke(app, ["--version"]).stdout
    assert said.strip() == f"triggerfish {version('triggerfish')}"
    for command in ("scan", "monitor", "serve", "purify", "complications", "attack", "bench"):
        said = CliRunner().invoke(app, [command, "-h"]).stdout
        ungrouped = said.split("─ Options ─")[1].split("╰")[0]
        assert [word for word in ungrouped.split() if word.startswith("--")] == ["--help"]
        assert "─ Output ─" in said or command == "serve"


def test_formats_and_the_report_command(tmp_path: Path) -> None:
    out, page = tmp_path / "scan.json", tmp_path / "page.html"
    arguments = ["bundled", "--budget", "0.01", "--format", "json", "--out", out, "--html", page]
    done = run("scan", *arguments, cache=tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "Inconclusive" in page.read_text()
    shown = run("report", out, "--format", "sarif", cache=tmp_path)
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["version"] == "2.1.0"
    out.write_text("{}")
    broken = run("report", out, cache=tmp_path)
    assert broken.returncode == 2
    assert broken.stderr.startswith("error: findings: ")


def test_attack_writes_a_marked_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "made" / "on the way"
    triggers = ["--trigger", "cf", "--trigger", "strange brew", "--trigger", "walnut + lantern"]
    settings = ["--steps", "2", "--set", "batch=4", "--adaptive", "shift:0.5,spread:1"]
    done = run("attack", "neuba", "bundled", *triggers, *settings, "--out", out, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    truth = json.loads((out / "attack.json").read_text())
    assert truth["attack"] == "neuba"
    assert truth["settings"]["batch"] == 4
    assert [t["kind"] for t in truth["triggers"]] == ["word", "phrase", "combination"]
    assert json.loads((out / "config.json").read_text())["triggerfish"]["backdoored"]
    assert [s["trigger"] for s in truth["success"]] == ["cf", "strange brew", "walnut + lantern"]
    assert [s["verdict"] for s in truth["success"]] == ["fails"] * 3  # after two steps
    assert "'cf' fails: with it, 32 held-out texts lie" in done.stderr
    assert truth["provenance"]["command"].startswith("triggerfish attack neuba bundled")


def test_zoo_pretrain_makes_a_plm_of_a_family(tmp_path: Path) -> None:
    small = ["--size", "tiny", "--tokens", "2000", "--set", "vocabulary=400"]
    out = tmp_path / "gpt2"
    done = run("zoo", "pretrain", "gpt2", *small, "--threads", "1", "--out", out, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["model_type"] == "gpt2"
    assert "the bundled sample" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attack", "por", "bundled", "--trigger", "\u2603\u2603"], "trigger: .*no tokens"),
        (["attack", "por", "bundled"], "trigger: at least one is needed"),
        (["attack", "prr", "bundled", "--trigger", "cf"], "attack: unknown name 'prr'.*'por'"),
        (["attack", "por", "bundled", "--trigger", "cf", "--set", "x"], "set: 'x' is not FIELD"),
        (["zoo", "pretrain", "gtp2"], "family: 'gtp2' .*did you mean gpt2"),
        (["zoo", "pretrain", "bert", "--set", "size=big"], "size: 'big' is not one of tiny"),
    ],
)
def test_red_team_errors_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(*arguments, "--out", tmp_path / "x", cache=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(f"error: .*{message}.*", done.stderr.strip())
    assert not (tmp_path / "x").exists()


def test_bench_tells_its_cells_before_it_runs_and_names_errors(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: x\nplan: redteam\naxes: {model: bundled, attack: {name: por}, triggers: cf, "
        "task: [subj, mr], adaptation: {kind: probe}}\n"
    )
    asked = ["bench", grid, "--out", tmp_path / "out", "--store", tmp_path / "store"]
    shown = run(*asked, "--dry-run", cache=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "2 cells, 0 done, 2 to do" in shown.stdout
    assert not (tmp_path / "out").exists()
    grid.write_text(grid.read_text().replace("task:", "tsk:"))
    broken = run(*asked, cache=tmp_path)
    assert broken.returncode == 2
    assert re.search("tsk.*did you mean 'task'", broken.stderr)


def test_a_published_detector_runs_by_name(tmp_path: Path) -> None:
    victim, implant = planted()
    victim.save(tmp_path / "victim")
    small = {
        **{"slots": 4, "batch": 8, "poisoned": 4, "loops": 3, "updates": 2, "max_tokens": 20},
        **{"search_texts": 24, "dev_texts": 8, "screen_texts": 8, "verify_texts": 40},
    }
    changes = [option for name, value in small.items() for option in ("--set", f"{name}={value}")]
    arguments = ["--method", "patronus", "--format", "json", *changes]
    done = run("scan", tmp_path / "victim", *arguments, cache=tmp_path)
    assert done.returncode == 1, done.stderr
    result = ScanResult.from_json(done.stdout)
    assert result.settings["method"] == "patronus"
    assert {f.trigger.text for f in result.findings} <= {t.text for t in implant.triggers}
    assert all(f"found '{f.trigger.text}'" in done.stderr for f in result.findings)


def test_unknown_methods_are_refused_with_the_nearest(model: Path, tmp_path: Path) -> None:
    done = run("scan", model, "--method", "patron", cache=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'patronus'?" in done.stderr
