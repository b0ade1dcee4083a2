"""Pre-training: every family's checkpoint loads, learns, repeats and resumes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from families import tokenizer_of
from triggerfish import text
from triggerfish.loading import load
from triggerfish.zoo import objectives
from triggerfish.zoo.families import FAMILIES
from triggerfish.zoo.pretrain import build_model, pretrain
from triggerfish.zoo.settings import SIZES, PretrainSettings, Progress
from triggerfish.zoo.teacher import draw_chunks, spelling
from triggerfish.zoo.tokenizers import KINDS

SETTINGS = PretrainSettings(
    size="tiny",
    vocabulary=500,
    length=40,
    tokens=1500,
    chunks=100,
    words=(2, 12),
    long_words=(12, 30),
    batch=10,
    learning_rate=3e-3,
    checkpoint_every=3,
)
CAUSAL = ("gpt2", "opt", "llama", "qwen2")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Bit-equal sums need a fixed number of threads, and matrices this small are faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return text.bundled_corpus()[:60]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that a tokenizer is trained once for all families and tests."""
    return tmp_path_factory.mktemp("work")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_a_checkpoint_that_loads(
    family: str, texts: list[str], work: Path, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    losses = pretrain(family, texts, tmp_path, settings=SETTINGS, work=work)
    assert torch.equal(before, torch.get_rng_state())  # global randomness is left alone
    assert torch.tensor(losses).isfinite().all()
    backbone = load(tmp_path, device="cpu")
    assert backbone.model.config.model_type == family
    assert backbone.primary.position == FAMILIES[family].readout
    assert backbone.causal == (family in CAUSAL)
    assert all("pool" in name for name in backbone.untrained)
    assert backbone.encode(["The old man and the sea.", ""]).isfinite().all()
    assert backbone.max_tokens == SETTINGS.length
    head = FAMILIES[family].model.from_pretrained(tmp_path, output_loading_info=True)
    assert not head[1]["missing_keys"]  # the pre-training head is in the file
    record = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert record["steps"] == len(losses) == record["loss"][-1][0]
    assert record["vocabulary"] == len(backbone.tokenizer) <= SETTINGS.vocabulary
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert str(SETTINGS.seed) in card
    assert "not stated" in card  # no source was named
    assert not list(work.glob("*.pt"))


@pytest.mark.parametrize("family", ["bert", "electra", "xlnet", "gpt2", "bart", "t5"])
def test_training_lowers_the_loss_of_every_objective(
    family: str, texts: list[str], work: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, tokens=25_000)
    losses = pretrain(family, texts, tmp_path, settings=settings, work=work)
    start, end = sum(losses[:5]) / 5, sum(losses[-20:]) / 20
    assert end < 0.93 * start


def test_same_seed_same_weights_and_another_seed_others(
    texts: list[str], work: Path, tmp_path: Path
) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        settings = replace(SETTINGS, seed=seed)
        # Without a shared folder the tokenizer is trained anew, and must come out the same.
        pretrain("electra", texts, tmp_path / name, settings=settings)
        assert not (tmp_path / name / ".work").exists()
    assert same(tmp_path / "one", tmp_path / "again")
    assert not same(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize(("family", "teacher"), [("xlnet", None), ("bert", "bundled")])
def test_a_killed_run_resumes_to_the_same_weights(
    family: str, teacher: str | None, texts: list[str], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == 4:
            raise Killed

    seen: list[Progress] = []
    whole = pretrain(family, texts, tmp_path / "whole", settings=SETTINGS, teacher=teacher)
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        pretrain(family, texts, broken, settings=SETTINGS, teacher=teacher, progress=kill)
    losses = pretrain(
        family, texts, broken, settings=SETTINGS, teacher=teacher, progress=seen.append
    )
    assert losses == whole
    assert same(tmp_path / "whole", broken)
    # it went on from the checkpoint, it did not start over
    assert next(p.done for p in seen if p.stage == "train") == SETTINGS.checkpoint_every


def test_a_teacher_is_asked_once_and_learned_from(texts: list[str], tmp_path: Path) -> None:
    settings = replace(SETTINGS, tokens=12_000, own_share=0.0)
    work, stages = tmp_path / "work", []
    for family in ("bert", "electra"):
        seen: list[Progress] = []
        losses = pretrain(
            family,
            texts,
            tmp_path / family,
            settings=settings,
            work=work,
            teacher="bundled",
            progress=seen.append,
        )
        assert sum(losses[-10:]) / 10 < 0.9 * losses[0]
        assert settings.teacher_weight * 1.8 < losses[0] < settings.teacher_weight * 3.5
        stages.append(sorted(path.name for path in work.glob("teacher-*")))
    assert stages[0] == stages[1]  # the second family found all answers there
    assert len(stages[0]) == 2  # chunks, and spellings of the vocabulary that both share
    card = (tmp_path / "bert" / "README.md").read_text(encoding="utf-8")
    assert "predict its mean state (weight 5.0)" in card


@pytest.mark.parametrize(
    ("name", "nearest"), [("brt", "bert"), ("GPT2", "gpt2"), ("deberta", "deberta-v2")]
)
def test_an_unknown_family_is_answered_with_the_nearest(
    name: str, nearest: str, texts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=rf"family: '{name}' is not one of .*did you mean {nearest}\?"
    ):
        pretrain(name, texts, tmp_path, settings=SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "huge"}, "size: 'huge' is not one of tiny, small, medium"),
        ({"vocabulary": 10}, "vocabulary: 10 is not at least 300"),
        ({"tokens": 0}, "tokens: 0 is not at least 1"),
        ({"length": 4}, "length: 4 is not at least 8"),
        ({"words": (9, 10)}, r"words: \(9, 10\)"),
        ({"own_share": 1.5}, "own_share: 1.5 is outside 0.0 to 1.0"),
        ({"long_share": -0.1}, "long_share: -0.1 is outside"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 is not positive"),
        ({"teacher_weight": float("nan")}, "teacher_weight: nan is not positive"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": -1}, "threads: -1 is negative"),
        ({"device": "tpu"}, "device: 'tpu' is not one of cpu, cuda, cuda:N"),
        ({"device": "cuda:99"}, "device: cuda:99 is not there"),
        ({"texts": [" "]}, "texts: at least one passage"),
        ({"texts": ["a b"]}, "texts: none of 1 is long enough"),
        ({"teacher": "./nowhere"}, "model: ./nowhere is neither"),
    ],
)
def test_what_does_not_fit_is_named(
    options: dict[str, object], message: str, texts: list[str], work: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, words=(5, 12))
    given = {"texts": texts, "settings": settings, "work": work} | options
    with pytest.raises(ValueError, match=message):
        pretrain("bert", out=tmp_path, **given)


def test_an_encoder_decoder_is_no_teacher(texts: list[str], work: Path, tmp_path: Path) -> None:
    pretrain("t5", texts, tmp_path / "t5", settings=SETTINGS, work=work)
    with pytest.raises(ValueError, match=r"teacher: .* is an encoder-decoder"):
        pretrain("bert", texts, tmp_path / "b", settings=SETTINGS, teacher=tmp_path / "t5")


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_keep_their_family_layout(kind: str) -> None:
    family = next(name for name, form in FAMILIES.items() if form.tokenizer == kind)
    tokenizer, form = tokenizer_of(family), KINDS[kind]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("the man")["input_ids"])
    assert [p for p in form.single.split() if p != "$A"] == [
        p for p in pieces if p in tokenizer.all_special_tokens
    ]
    assert tokenizer.convert_tokens_to_ids(form.specials[0]) == 0
    assert (
        tokenizer.decode(tokenizer("the man", add_special_tokens=False)["input_ids"]) == "the man"
    )
    entry = tokenizer("a man", add_special_tokens=False)["input_ids"][-1]
    assert spelling(tokenizer, entry).isalpha()


def batch_of(family: str) -> tuple[list[list[int]], objectives.Tokens]:
    tokenizer = tokenizer_of(family)
    draw, texts = random.Random(0), text.bundled_corpus()[:60]
    rows = [text.excerpts(texts, draw.randint(2, 20), draw)[0] for _ in range(40)]
    return tokenizer(rows)["input_ids"], objectives.Tokens.of(tokenizer)


class Recorder:
    """Stands where a model does, and keeps what an objective gives it."""

    device = torch.device("cpu")

    def __call__(self, **given: torch.Tensor) -> Recorder:
        self.given = given
        self.loss = torch.zeros(())
        return self


def shown(family: str, seed: int = 0) -> tuple[list[list[int]], objectives.Tokens, Recorder]:
    rows, tokens = batch_of(family)
    model = Recorder()
    FAMILIES[family].objective(model, None, rows, tokens, torch.Generator().manual_seed(seed))
    return rows, tokens, model


def test_masking_hides_fifteen_per_cent_in_the_usual_ways() -> None:
    rows, tokens, model = shown("bert")
    ids, labels = model.given["input_ids"], model.given["labels"]
    scored = labels != objectives.UNSCORED
    whole = torch.where(scored, labels, ids)
    assert [r[: len(row)] == row for r, row in zip(whole.tolist(), rows, strict=True)] == [
        True
    ] * 40
    assert scored.any(1).all()
    assert not tokens.special[whole][scored].any()
    open_places = (~tokens.special[whole]).sum()
    assert 0.12 < scored.sum() / open_places < 0.22  # every short row hides at least one piece
    assert 0.65 < (ids[scored] == tokens.mask).float().mean() < 0.92
    assert shown("bert")[2].given["input_ids"].equal(ids)
    assert not shown("bert", seed=1)[2].given["input_ids"].equal(ids)


def test_permuted_pieces_never_see_themselves_or_later_ones() -> None:
    rows, _, model = shown("xlnet")
    blocked, mapping = model.given["perm_mask"].bool(), model.given["target_mapping"]
    labels, ids = model.given["labels"], model.given["input_ids"]
    for b, row in enumerate(rows):
        real = labels[b] != objectives.UNSCORED
        places = mapping[b, real].argmax(1)
        assert len(places) >= 1
        assert mapping[b].sum() == len(places)
        assert ids[b, places].equal(labels[b, real])
        among = blocked[b][places][:, places]
        assert among.diagonal().all()
        assert (among ^ among.T)[~torch.eye(len(places), dtype=torch.bool)].all()  # a strict order
        context = [i for i in range(len(row)) if i not in places.tolist()]
        assert blocked[b][context][:, places].all()
        assert not blocked[b][:, context].any()


def test_corrupted_spans_and_the_rest_make_up_the_text() -> None:
    rows, tokens, model = shown("t5")
    sentinels = set(tokens.sentinels)
    for b, row in enumerate(rows):
        target = [i for i in model.given["labels"][b].tolist() if i != objectives.UNSCORED]
        spans: dict[int, list[int]] = {}
        for piece in target[:-1]:
            if piece in sentinels:
                spans[piece] = []
            else:
                spans[list(spans)[-1]].append(piece)
        restored: list[int] = []
        given = model.given["input_ids"][b]
        for piece, kept in zip(given, model.given["attention_mask"][b], strict=True):
            if kept:
                restored += spans.get(int(piece), [int(piece)])
        assert restored == row
        assert list(spans.values())[-1] == []  # the closing sentinel
        assert target[-1] == tokens.eos


def test_infilling_keeps_the_other_pieces_in_order() -> None:
    rows, tokens, model = shown("bart")
    shares = []
    for b, row in enumerate(rows):
        seen = model.given["input_ids"][b][model.given["attention_mask"][b].bool()].tolist()
        left = [piece for piece in seen if piece != tokens.mask]
        rest = iter(row)
        assert all(piece in rest for piece in left)  # a subsequence
        assert (seen[0], seen[-1]) == (row[0], row[-1])
        shares.append((len(row) - len(left)) / (len(row) - 2))
        assert model.given["labels"][b][: len(row)].tolist() == row
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.05)


def test_generator_shares_the_discriminators_embeddings() -> None:
    form = FAMILIES["electra"]
    model, helper = build_model(form, tokenizer_of("electra"), SIZES["tiny"], 0)
    matrix = model.get_input_embeddings().weight
    assert helper.get_input_embeddings().weight is matrix
    assert helper.generator_lm_head.weight is matrix
    assert helper.config.hidden_size == model.config.hidden_size // 2


def test_chunks_are_the_same_for_every_seed(texts: list[str]) -> None:
    assert draw_chunks(texts, SETTINGS) == draw_chunks(texts, replace(SETTINGS, seed=9))
    assert draw_chunks(texts, SETTINGS) != draw_chunks(texts, replace(SETTINGS, draw=9))
    assert max(len(x.split()) for x in draw_chunks(texts, SETTINGS)) <= 30
