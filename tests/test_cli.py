"""What a user types: help without torch, and bad input as one clear line with exit code 2."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from planted import planted
from triggerfish.loading import bundled
from triggerfish.records import ScanResult


def run(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from triggerfish.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
    )


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


CASES = {
    "missing": (lambda model: [str(model / "nowhere")], "model: .*nowhere"),
    "no config": (lambda model: [str(model.parent)], "model: .*config.json"),
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
    "budget": (lambda model: [str(model), "--budget", "-1"], "budget: -1"),
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


def test_help_needs_no_torch() -> None:
    code = "import sys; from triggerfish import cli; assert 'torch' not in sys.modules; cli.main()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "scan" in done.stdout


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
