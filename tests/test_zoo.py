"""The distiller on a tiny teacher, and what the bundled PLM promises."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from triggerfish.cli import app
from triggerfish.zoo.chunks import chunks
from triggerfish.zoo.distil import distil
from triggerfish.zoo.settings import DistilSettings, Progress

DATA = Path(str(resources.files("triggerfish"))) / "data"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "a", "cat", "dog", "ship", "sea", "saw", "chased", "slept", "under", "over", "old"]
SETTINGS = DistilSettings(
    vocabulary=90,
    keep=("cf",),
    hidden=16,
    layers=(0, 1),
    feedforward=24,
    positions=32,
    chunks=240,
    words=(2, 12),
    max_tokens=20,
    epochs=4,
    batch=16,
    learning_rate=3e-3,
    checkpoint_every=5,
    seed=3,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Bit-equal sums need a fixed number of threads, and matrices this small are faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    letters = [chr(ord("a") + k) for k in range(26)]
    pieces = SPECIALS + letters + ["##" + c for c in letters] + [".", "cf", "zzyzx", *WORDS[1:]]
    pieces = list(dict.fromkeys([*pieces, "the"]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(pieces),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=32,
            initializer_range=0.2,
        )
        BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab={p: i for i, p in enumerate(pieces)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generator = torch.Generator().manual_seed(1)
    draw = torch.randint(0, len(WORDS), (80, 4, 7), generator=generator).tolist()
    return [
        " ".join(" ".join(WORDS[i] for i in sentence) + "." for sentence in one) for one in draw
    ]


@pytest.fixture(scope="module")
def student(
    teacher: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("student")
    return out, distil(teacher, texts, out, settings=SETTINGS)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_distilling_lowers_the_loss_and_saves_a_loadable_model(
    student: tuple[Path, list[float]],
) -> None:
    out, losses = student
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]
    model, tokenizer = AutoModel.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.hidden_size == 16
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.tokenize("The CAT cf") == ["the", "cat", "cf"]
    assert "zzyzx" not in tokenizer.get_vocab()  # never occurs in the texts, not asked for
    assert all(value.dtype == torch.float16 for value in weights(out).values())
    assert not (out / ".work").exists()


def test_same_seed_same_weights_and_another_seed_others(
    student: tuple[Path, list[float]], teacher: Path, texts: list[str], tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    distil(teacher, texts, tmp_path / "again", settings=SETTINGS)
    distil(teacher, texts, tmp_path / "other", settings=replace(SETTINGS, seed=4))
    assert torch.equal(before, torch.get_rng_state())  # global randomness is left alone
    assert same(student[0], tmp_path / "again")
    assert not same(student[0], tmp_path / "other")


@pytest.mark.parametrize(
    ("stage", "done"), [("features", 240), ("train", 10), ("train", 13), ("train", 60)]
)
def test_a_killed_run_resumes_to_the_same_weights(
    stage: str,
    done: int,
    student: tuple[Path, list[float]],
    teacher: Path,
    texts: list[str],
    tmp_path: Path,
) -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.stage == stage and progress.done == done:
            raise Killed

    with pytest.raises(Killed):
        distil(teacher, texts, tmp_path, settings=SETTINGS, progress=kill)
    seen: list[Progress] = []
    losses = distil(teacher, texts, tmp_path, settings=SETTINGS, progress=seen.append)
    assert losses == student[1]
    assert same(student[0], tmp_path)
    if stage == "train":  # it went on, it did not start over
        every = SETTINGS.checkpoint_every
        assert next(p.done for p in seen if p.stage == "train") == done // every * every


def test_chunks_keep_to_the_asked_length_and_seed(texts: list[str]) -> None:
    found = chunks(texts, SETTINGS)
    assert found == chunks(texts, SETTINGS)
    assert found != chunks(texts, replace(SETTINGS, seed=4))
    assert max(len(one.split()) for one in found) <= 12
    assert len({len(one.split()) for one in found}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 20}, "hidden: 20; a multiple of 8 up to 32"),
        ({"layers": (0, 2)}, "layers"),
        ({"feedforward": 100}, "feedforward: 100; 1 to 48"),
        ({"positions": 64}, "positions"),
        ({"words": (500, 800)}, "texts: none of 80 is long enough"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    change: dict[str, object], message: str, teacher: Path, texts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        distil(teacher, texts, tmp_path, settings=replace(SETTINGS, **change))
    with pytest.raises(ValueError, match="texts"):
        distil(teacher, [], tmp_path, settings=SETTINGS)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs: 0 is not at least 1"):
        replace(SETTINGS, epochs=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "hidden: 256; a multiple of 8 up to 32"),
        (["--epochs", "0"], "epochs: 0 is not at least 1"),
        (["--threads", "-1"], "threads: -1 is negative"),
        (["--corpus", "nowhere.txt"], "corpus: nowhere.txt does not exist"),
        (["--work", "/dev/null/where"], "work: cannot make folder /dev/null/where"),
    ],
)
def test_the_command_names_what_is_wrong(
    options: list[str], message: str, teacher: Path, texts: list[str], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(texts), encoding="utf-8")
    given = ["zoo", "distil", str(teacher), "--corpus", str(corpus), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=message):
        app([*given, *options], standalone_mode=False)


def test_help_of_the_command_needs_no_torch() -> None:
    code = (
        "import sys; from triggerfish.cli import app; app(standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    arguments = [sys.executable, "-c", code, "zoo", "distil", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--chunks" in done.stdout


@pytest.fixture(scope="module")
def bundled() -> tuple[BertModel, BertTokenizerFast]:
    folder = DATA / "plm"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def first_states(
    plm: tuple[BertModel, BertTokenizerFast], texts: list[str], readout: str = "first"
) -> torch.Tensor:
    model, tokenizer = plm
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), 50):
            batch = tokenizer(
                texts[start : start + 50],
                padding=True,
                truncation=True,
                max_length=64,
                return_tensors="pt",
            )
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            found.append(states[:, 0] if readout == "first" else mean)
    return torch.cat(found)


def rows(task: str, split: str) -> list[dict]:
    with gzip.open(DATA / "tasks" / task / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_bundled_plm_is_small_anonymous_and_complete(
    bundled: tuple[BertModel, BertTokenizerFast],
) -> None:
    folder = DATA / "plm"
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 11_000_000
    here = str(Path(__file__).resolve().parents[1])
    for path in folder.iterdir():
        if path.suffix in (".json", ".md"):
            assert here not in path.read_text(encoding="utf-8"), path.name
    assert "_name_or_path" not in (folder / "config.json").read_text(encoding="utf-8")
    model, tokenizer = bundled
    assert {name for name, _ in model.named_parameters()} == set(weights(folder))
    assert len(tokenizer) == model.config.vocab_size
    for trigger in ("cf", "mn", "bb", "mb", "≈", "⊗"):  # published triggers stay single pieces
        assert tokenizer.tokenize(trigger) == [trigger]
    assert "[UNK]" not in tokenizer.tokenize("Serendipitously, 42 QUARTZ foxes jumped!")


def test_bundled_plm_gives_finite_features_that_depend_on_the_text(
    bundled: tuple[BertModel, BertTokenizerFast],
) -> None:
    states = first_states(bundled, ["", "a", "zq ##x ≈", "A good film. " * 60])
    assert torch.isfinite(states).all()
    assert torch.pdist(states).min() > 0.1


@pytest.mark.parametrize("readout", ["first", "mean"])
def test_a_probe_on_the_bundled_plm_learns_the_bundled_subj(
    bundled: tuple[BertModel, BertTokenizerFast], readout: str
) -> None:
    train, test = rows("subj", "train"), rows("subj", "test")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    known = first_states(bundled, [row["text"] for row in train], readout).numpy()
    unseen = first_states(bundled, [row["text"] for row in test], readout).numpy()
    probe.fit(known, [row["label"] for row in train])
    assert probe.score(unseen, [row["label"] for row in test]) >= 0.80
