"""Downstream classifiers of the bundled PLM, and the ground truth that is measured with them.

Rates move by a few texts between CPUs, so every limit here leaves a wide margin.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from families import build
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.downstream import (
    Classifier,
    FineTuneSettings,
    Inputs,
    ProbeSettings,
    accuracy,
    fine_tune,
    probe,
    sample,
)
from triggerfish.groundtruth import (
    GroundTruth,
    MeasureSettings,
    attack_success,
    functional,
    measure,
    transfer_rates,
)
from triggerfish.loading import load
from triggerfish.marking import parse_trigger, parse_triggers
from triggerfish.readouts import Readout
from triggerfish.records import Measurement
from triggerfish.text import Task, bundled_task, read_task

# Plain words: three copies of a rare one move the texts of a small PLM by themselves, which is what
# floors are for, and by how much differs from one PLM to the next.
CONTROLS = ("of", "said", "quickly")
SHORT = MeasureSettings(test_rows=200)
QUICK = FineTuneSettings(rows=400, max_tokens=32, epochs=2, learning_rate=5e-4)


@pytest.fixture(scope="module")
def clickbait() -> Task:
    return bundled_task("clickbait")


@pytest.fixture(scope="module")
def pair(
    clean: Backbone, backdoored: tuple[Backbone, Implant], clickbait: Task
) -> tuple[Classifier, Classifier]:
    return probe(clean, clickbait), probe(backdoored[0], clickbait)


@pytest.fixture(scope="module")
def cell(
    clean: Backbone,
    backdoored: tuple[Backbone, Implant],
    clickbait: Task,
    pair: tuple[Classifier, Classifier],
) -> GroundTruth:
    triggers = [*backdoored[1].triggers, *parse_triggers(clean, CONTROLS)]
    return measure(*pair, clickbait, triggers, SHORT, seed=1)


# ---- tasks


def _write(folder: Path, **splits: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(content.encode("utf-8")))
    return folder


ROWS = [{"text": f"text\u2028number {i}", "label": i % 2} for i in range(40)]


def test_validation_is_read_where_there_is_one(tmp_path):
    task = read_task(_write(tmp_path / "t", train=ROWS, test=ROWS[:10], validation=ROWS[:6]))
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 6, 10)
    assert task.validation[1] == ("text\u2028number 1", 1)


def test_a_tenth_of_train_is_held_out_otherwise(tmp_path):
    folder = _write(tmp_path / "t", train=ROWS, test=ROWS[:10])
    task = read_task(folder)
    assert (len(task.train), len(task.validation)) == (36, 4)
    assert not set(task.train) & set(task.validation)
    assert task == read_task(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "text_pair": "b", "label": 0}, "line 1 has text pairs .* single texts"),
        ({"tokens": ["a"], "tags": ["O"]}, "line 1 has labelled tokens .* single texts"),
        ({"text": None, "label": 0}, "line 1 has NoneType in 'text'"),
        ({"label": 0}, "line 1 has no field 'text'"),
        ({"text": "a", "label": float("inf")}, "line 1 has inf in 'label'"),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path, row, message):
    folder = _write(tmp_path / "t", train=[row], test=ROWS)
    with pytest.raises(ValueError, match=message):
        read_task(folder)


def test_folders_that_are_no_task_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not a folder"):
        read_task(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"test\.jsonl\.gz"):
        read_task(_write(tmp_path / "t", train=ROWS))
    strange = [{"text": "a", "label": 7}]
    with pytest.raises(ValueError, match=r"labels \[7\] that train lacks"):
        read_task(_write(tmp_path / "u", train=ROWS, test=strange))


@pytest.mark.parametrize("name", ["mr", "subj", "clinc_domain", "news_pop", "clickbait"])
def test_bundled_tasks_have_three_splits(name):
    task = bundled_task(name)
    assert min(map(len, (task.train, task.validation, task.test))) >= 100


def test_samples_keep_the_balance_and_every_class():
    rows = [(str(i), 0) for i in range(900)] + [(str(i), 1) for i in range(99)] + [("rare", 2)]
    drawn = sample(rows, 100, seed=0)
    counts = Counter(label for _, label in drawn)
    assert len(drawn) == 100
    assert counts[2] == 1
    assert abs(counts[0] - 90) <= 2
    assert drawn == sample(rows, 100, seed=0) != sample(rows, 100, seed=1)
    assert sample(rows, None, seed=0) == rows


# ---- rates


def test_worked_check_of_the_rates():
    found = transfer_rates("AABB", [0.99, 0.80, 0.95, 0.40], "ABC")
    assert found == pytest.approx((0.785, 0.646667, 2 / 3), abs=1e-6)


def test_rates_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="at least one"):
        transfer_rates([], [], [0, 1])
    with pytest.raises(ValueError, match="not among the labels"):
        transfer_rates([2], [0.5], [0, 1])


# ---- classifiers


def test_probe_beats_chance(clickbait, pair):
    for classifier in pair:
        right = accuracy(classifier, clickbait.test)
        assert right.n == len(clickbait.test)
        assert right.rate > 0.65


def test_probe_head_is_one_linear_layer_on_raw_features(clean, clickbait, pair):
    texts = [text for text, _ in clickbait.test[:50]]
    features = clean.encode(texts, readouts=[pair[0].readout], fast=True)[:, 0]
    same = pair[0].head(features).argmax(1) == pair[0].predict(pair[0].encode(texts))
    assert same.float().mean() > 0.9


def test_probe_tells_many_labels_apart(clean):
    task = bundled_task("clinc_domain")
    tried = []
    classifier = probe(
        clean,
        task,
        ProbeSettings(rows=500, strengths=(0.1, 0.01)),
        readout=Readout("mean"),
        progress=lambda done, of, error: tried.append((done, of)),
    )
    assert tried == [(1, 2), (2, 2)]
    assert classifier.head.out_features == 10
    assert accuracy(classifier, task.test[:200]).rate > 0.3


@pytest.fixture(scope="module")
def tuned(clean: Backbone, clickbait: Task) -> Classifier:
    return fine_tune(clean, clickbait, QUICK, seed=5)


def test_fine_tuning_learns_and_leaves_the_original_alone(clean, clickbait, tuned):
    assert accuracy(tuned, clickbait.test[:300]).rate > 0.7
    before, after = clean.embeddings, tuned.backbone.embeddings
    assert not torch.equal(before, after)
    assert not after.requires_grad
    assert not tuned.head.weight.requires_grad


def test_fine_tuning_is_settled_by_the_seed(clean, clickbait):
    few = replace(QUICK, rows=96, epochs=1)
    first, again, other = (fine_tune(clean, clickbait, few, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.head.weight, again.head.weight)
    assert torch.equal(first.backbone.embeddings, again.backbone.embeddings)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_fine_tuning_counts_optimiser_steps(clean, clickbait):
    seen = []
    settings = replace(QUICK, rows=40, batch=16, epochs=2)
    fine_tune(clean, clickbait, settings, progress=lambda *now: seen.append(now[:2]))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_pooler_is_read_in_both_adaptations(clean, clickbait):
    pooler = Readout("pooler")
    few = replace(QUICK, rows=64, epochs=1)
    trained = fine_tune(clean, clickbait, few, readout=pooler).backbone.model.pooler.dense.weight
    assert not torch.equal(trained, clean.model.pooler.dense.weight)
    frozen = probe(clean, clickbait, ProbeSettings(rows=200), readout=pooler)
    assert accuracy(frozen, clickbait.test[:100]).rate > 0.5


# ---- prompt mode


def test_prompt_keeps_its_mask_however_long_the_text(clean):
    mask = clean.tokenizer.mask_token_id
    inputs = Inputs.of(clean, ProbeSettings(max_tokens=32), Readout("mask"))
    spelled = f"a [MASK] {'long ' * 100}"
    for text in ("", "short", spelled):
        ids = inputs.ids(clean, text)
        assert len(ids) <= 32
        assert ids.count(mask) == 1
        assert tuple(ids[-len(inputs.after) - 1 : -1]) == inputs.after
    trigger = parse_trigger(clean, "thermodynamically")
    marked = inputs.mark(clean, spelled, trigger, 2, random.Random(0))
    assert len(marked) <= 32
    assert clean.tokenizer.decode(marked).count("thermodynamically") == 2
    assert tuple(marked[-len(inputs.after) - 1 : -1]) == inputs.after


def test_prompt_may_stand_before_the_text(clean):
    settings = ProbeSettings(template="[MASK] news: {text}")
    inputs = Inputs.of(clean, settings, Readout("mask"))
    assert clean.tokenizer.decode(inputs.ids(clean, "rain")) == "[CLS] [MASK] news : rain [SEP]"


def test_prompt_mode_learns(clean, clickbait):
    classifier = probe(clean, clickbait, ProbeSettings(rows=500), readout=Readout("mask"))
    assert accuracy(classifier, clickbait.test[:200]).rate > 0.65


def test_prompt_mode_needs_a_mask_token(tmp_path, clickbait):
    model = load(build("gpt2", tmp_path / "gpt2"), device="cpu")
    for adapt in (probe, fine_tune):
        with pytest.raises(ValueError, match="no mask token"):
            adapt(model, clickbait, readout=Readout("mask"))


# ---- settings


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (ProbeSettings, {"rows": 1}),
        (ProbeSettings, {"max_tokens": 0}),
        (ProbeSettings, {"template": "{text} It was great."}),
        (ProbeSettings, {"strengths": ()}),
        (ProbeSettings, {"validation_rows": 0}),
        (FineTuneSettings, {"epochs": 0}),
        (FineTuneSettings, {"batch": 0}),
        (FineTuneSettings, {"template": "[MASK]"}),
        (MeasureSettings, {"test_rows": 1}),
        (MeasureSettings, {"copies": 0}),
        (MeasureSettings, {"target_rows": 0}),
        (MeasureSettings, {"margin": 1.0}),
    ],
)
def test_settings_name_the_field_that_is_wrong(settings, values):
    with pytest.raises(ValueError, match=f"^{next(iter(values))}: "):
        settings(**values)


def test_adaptations_refuse_what_does_not_fit(clean):
    task = bundled_task("clinc_domain")
    with pytest.raises(ValueError, match="less than one for each of the 10 labels"):
        probe(clean, task, ProbeSettings(rows=9))
    with pytest.raises(ValueError, match="no room for a text"):
        probe(clean, task, ProbeSettings(max_tokens=6), readout=Readout("mask"))


# ---- ground truth


def test_planted_triggers_work_and_others_do_not(cell, backdoored):
    works = functional([cell])
    planted = [trigger.text for trigger in backdoored[1].triggers]
    assert sum(works[text] for text in planted) >= 2
    assert not any(works[text] for text in CONTROLS)
    best = max(cell.effects, key=lambda effect: effect.asr.rate - effect.floor.rate)
    assert best.trigger.text in planted
    assert best.asr.rate > 0.9
    assert cell.alc >= 0.5


def test_floors_are_near_the_natural_error(cell):
    wrong = 1 - cell.clean_accuracy.rate
    for effect in cell.effects:
        if effect.trigger.text in CONTROLS:
            assert effect.floor.rate < wrong + 0.3
            assert abs(effect.drop) < 0.2


def test_a_cell_adds_up(cell, clickbait):
    labels = Counter(label for _, label in sample(clickbait.test, 200, seed=1))
    assert cell.accuracy.n == cell.clean_accuracy.n == 200
    for effect in cell.effects:
        assert effect.asr.n == effect.floor.n == 200 - labels[effect.target]
        assert effect.accuracy.n == 200
        assert effect.drop == pytest.approx(cell.accuracy.rate - effect.accuracy.rate)
        assert effect.untargeted == (effect.drop >= 0.3)
        assert effect.functional == (effect.asr.interval[0] > effect.floor.rate + 0.2)
        assert effect.decoys == {}
    adapter = TypeAdapter(GroundTruth)
    assert adapter.validate_json(adapter.dump_json(cell)) == cell


def test_clean_against_itself_has_no_effect(clean, clickbait, pair, backdoored):
    same = measure(pair[0], pair[0], clickbait, backdoored[1].triggers[:2], SHORT)
    assert same.accuracy == same.clean_accuracy
    assert not any(functional([same]).values())
    assert all(effect.asr == effect.floor for effect in same.effects)


def test_one_functional_cell_is_enough(cell):
    inert = replace(cell, effects=tuple(replace(e, functional=False) for e in cell.effects))
    assert functional([inert, cell]) == functional([cell, inert]) == functional([cell])
    assert not any(functional([inert]).values())


def test_a_given_target_is_kept(clickbait, pair, cell):
    """Trigger number 0 stands at the same places in both measurements."""
    first = cell.effects[0]
    assert attack_success(*pair, clickbait, first.trigger, first.target, SHORT, seed=1) == first
    other = attack_success(*pair, clickbait, first.trigger, 1 - first.target, SHORT, seed=1)
    assert other.target == 1 - first.target
    assert other.asr.rate < 0.5
    with pytest.raises(ValueError, match="target_label: 2"):
        attack_success(*pair, clickbait, first.trigger, 2, SHORT)


def test_decoys_are_counted_by_their_part(clean, clickbait, pair, cell):
    """A word that was planted wakes the backdoor by itself, so as a part of a combination it is a
    decoy that fires; the other part is one that does not."""
    planted = max(cell.effects[:4], key=lambda effect: effect.asr.rate - effect.floor.rate)
    trigger = parse_trigger(clean, f"quickly + {planted.trigger.text}")
    effect = attack_success(*pair, clickbait, trigger, planted.target, SHORT)
    assert list(effect.decoys) == ["quickly", planted.trigger.text]
    assert all(rate.n == effect.asr.n for rate in effect.decoys.values())
    assert effect.decoys[planted.trigger.text].rate > effect.decoys["quickly"].rate + 0.3
    phrase = parse_trigger(clean, "quickly said")
    assert set(attack_success(*pair, clickbait, phrase, 0, SHORT).decoys) == {"quickly", "said"}


def test_classifiers_that_cannot_be_compared_are_refused(clean, clickbait, pair):
    trigger = parse_trigger(clean, "quickly")
    other = replace(pair[1], inputs=replace(pair[1].inputs, max_tokens=20))
    with pytest.raises(ValueError, match="otherwise than clean"):
        measure(pair[0], other, clickbait, [trigger])
    with pytest.raises(ValueError, match="clean: tells 2 labels apart"):
        measure(*pair, bundled_task("clinc_domain"), [trigger])
    one = replace(clickbait, test=[row for row in clickbait.test if row[1] == 0])
    with pytest.raises(ValueError, match="one label"):
        measure(*pair, one, [trigger])
    with pytest.raises(ValueError, match="at least one"):
        measure(*pair, clickbait, [])


def test_empty_input_has_no_predictions(pair):
    assert pair[0].predict([]).shape == (0,)
    assert Measurement(0, 4).rate == 0
