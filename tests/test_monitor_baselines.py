"""The published defences, and the mistakes of their ports that must not come back."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch

from triggerfish import text
from triggerfish.attacks.implant import Implant
from triggerfish.backbone import Backbone
from triggerfish.downstream import Classifier, FineTuneSettings, ProbeSettings, fine_tune, probe
from triggerfish.guards import (
    PUBLISHED,
    Guard,
    Onion,
    OnionSettings,
    Rap,
    RapSettings,
    Strip,
    StripSettings,
    VectorMonitor,
    target_vectors,
)
from triggerfish.guards.strip import entropies, weightiest
from triggerfish.heads import IGNORED, lm_loss, with_head
from triggerfish.loading import load
from triggerfish.readouts import pad
from triggerfish.zoo.pretrain import pretrain
from triggerfish.zoo.settings import PretrainSettings

TASK = text.bundled_task("clickbait")
ROWS = [x for x, _ in TASK.test]
KNOWN, CALIBRATION, CLEAN, MARKED = ROWS[:60], ROWS[60:160], ROWS[160:200], ROWS[200:240]


def written(texts: list[str], word: str, copies: int = 1) -> list[str]:
    rng = random.Random(word)
    return [text.insert(x, word, copies=copies, rng=rng) for x in texts]


@pytest.fixture(scope="module")
def victim(backdoored: tuple[Backbone, Implant]) -> Classifier:
    return probe(backdoored[0], TASK, ProbeSettings(rows=300, max_tokens=32))


# ---- ONION


def language_model(family: str, out: object) -> Backbone:
    settings = PretrainSettings(
        size="tiny", vocabulary=600, tokens=60_000, chunks=2000, batch=32, learning_rate=5e-3
    )
    pretrain(family, text.bundled_corpus()[:400], out, settings=settings)
    return with_head(load(out, device="cpu"))


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return language_model("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return language_model("bert", tmp_path_factory.mktemp("bert"))


SENTENCES = [
    "the house was on the other side of the river and it was old",
    "he said that it was",
    "in the year of the war they went to the city with all the people of the land and the sea",
]


def test_perplexity_is_the_models_own_loss_whatever_stands_beside(causal: Backbone) -> None:
    """Padding of shorter texts in a batch stays out of the loss."""
    together = Onion(causal).log_perplexities(SENTENCES)
    for sentence, value in zip(SENTENCES, together, strict=True):
        ids, mask = pad([causal.tokenize(sentence)], causal.pad_id)
        with torch.inference_mode():
            loss = causal.whole(input_ids=ids, attention_mask=mask, labels=ids).loss
        assert value == pytest.approx(float(loss), abs=1e-4)
    small = Onion(causal, OnionSettings(batch_tokens=1)).log_perplexities(SENTENCES)
    assert small == pytest.approx(together, abs=1e-4)


def test_words_are_taken_out_and_joined_with_spaces(causal: Backbone) -> None:
    onion = Onion(causal, OnionSettings(logarithm=True))
    words = SENTENCES[0].split()
    whole = onion.log_perplexities([SENTENCES[0]])[0]
    expected = [
        whole - onion.log_perplexities([" ".join(words[:i] + words[i + 1 :])])[0]
        for i in range(len(words))
    ]
    assert onion.suspicions(SENTENCES[0]) == pytest.approx(expected, abs=1e-4)


def test_pseudo_perplexity_masks_each_token_in_turn(masked: Backbone) -> None:
    onion = Onion(masked, OnionSettings(masked="pseudo", batch_tokens=64))
    ids = masked.template.wrap(masked.tokenize(SENTENCES[1]))
    losses = []
    for place in range(1, len(ids) - 1):
        row, labels = torch.tensor([ids]), torch.full((1, len(ids)), IGNORED)
        labels[0, place] = ids[place]
        row[0, place] = masked.tokenizer.mask_token_id
        with torch.inference_mode():
            losses.append(float(lm_loss(masked, row, torch.ones_like(row), labels)))
    expected = sum(losses) / len(losses)
    assert onion.log_perplexities([SENTENCES[1]])[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["causal", "word", "pseudo"])
def test_an_inserted_rarity_is_the_most_suspicious_word(
    causal: Backbone, masked: Backbone, kind: str
) -> None:
    """Even a language model of some seconds stumbles over a string it has never seen."""
    onion = Onion(causal) if kind == "causal" else Onion(masked, OnionSettings(masked=kind))
    found = 0
    for sentence in SENTENCES:
        words = sentence.split()
        words.insert(len(words) // 2, "zqx")
        suspicions = onion.suspicions(" ".join(words))
        assert len(suspicions) == len(words)
        found += suspicions[len(sentence.split()) // 2] == max(suspicions)
    assert found >= 2


def test_onion_purifies_what_is_above_the_threshold(causal: Backbone) -> None:
    onion = Onion(causal)
    suspicions = onion.suspicions(SENTENCES[0])
    kept = [
        word
        for word, value in zip(SENTENCES[0].split(), suspicions, strict=True)
        if value < max(suspicions)
    ]
    second = sorted(suspicions)[-2]
    assert onion.purify(SENTENCES[0], second) == " ".join(kept)
    assert onion.purify(SENTENCES[0], max(suspicions)) == SENTENCES[0]
    assert onion.scores(["", "alone"]) == [0.0, 0.0]


def test_words_beyond_the_cut_are_not_suspicious(masked: Backbone) -> None:
    onion = Onion(masked, OnionSettings(max_tokens=8))
    suspicions = onion.suspicions(SENTENCES[2])
    assert len(suspicions) == len(SENTENCES[2].split())
    assert suspicions[0] > 0
    assert set(suspicions[8:]) == {0.0}


def test_onion_needs_a_head(clean: Backbone) -> None:
    with pytest.raises(ValueError, match="no language-model head"):
        Onion(clean)


# ---- STRIP


def test_entropy_is_averaged_over_copies_of_the_same_text(victim: Classifier) -> None:
    strip = Strip(victim, KNOWN)
    scores = strip.scores(CLEAN[:6])
    assert len(set(scores)) > 1
    for sentence, score in zip(CLEAN[:6], scores, strict=True):
        values = entropies(victim.logits(victim.encode(strip.copies(sentence))))
        assert len(values) == strip.settings.copies
        assert score == pytest.approx(-float(values.mean()), abs=1e-2)  # bf16, other batches
    # Entropies of other texts would change with the order; these do not.
    assert strip.scores(CLEAN[:6][::-1])[::-1] == pytest.approx(scores, abs=1e-2)


def test_half_of_the_words_give_way_to_weighty_ones(victim: Classifier) -> None:
    strip = Strip(victim, KNOWN, StripSettings(share=0.5))
    sentence = "one two three four five six seven eight"
    donors = {word for donor in strip.donors for word in donor}
    for changed in strip.copies(sentence):
        pairs = list(zip(sentence.split(), changed.split(), strict=True))
        moved = [new for old, new in pairs if old != new]
        assert len(moved) == 4
        assert donors.issuperset(moved)
    assert strip.copies(sentence) == strip.copies(sentence)
    assert len(set(strip.copies(sentence))) > 1


def test_weightiest_words_come_first() -> None:
    assert weightiest(["the whale", "the sea", "the sun"])[0] == ["whale", "the"]
    assert weightiest(["the whale", "", "the sun"])[1][0] == "sun"
    with pytest.raises(ValueError, match="clean: the texts hold no words"):
        weightiest(["", " "])


def test_strip_sees_a_trigger_that_decides_alone(clean: Backbone) -> None:
    """The attack STRIP was made for: a classifier trained on triggered texts of one label."""
    rows = [(x, y) for x, y in TASK.train[:300]]
    rng = random.Random(0)
    rows += [(text.insert(x, "zugzwang", copies=3, rng=rng), 1) for x, _ in rows[:100]]
    settings = FineTuneSettings(rows=None, max_tokens=32, epochs=3, learning_rate=5e-4)
    poisoned = fine_tune(clean, replace(TASK, train=rows), settings)
    strip = Strip(poisoned, KNOWN)
    calm = strip.scores(CLEAN)
    triggered = strip.scores(written(MARKED, "zugzwang", copies=3))
    above = sum(t > c for t in triggered for c in calm) / (len(triggered) * len(calm))
    assert above > 0.7
    other = Strip(poisoned, KNOWN, StripSettings(side="high"))
    assert other.scores(CLEAN[:3]) == pytest.approx([-x for x in calm[:3]], abs=1e-2)


# ---- RAP


def test_rap_lowers_clean_probabilities_into_the_band(victim: Classifier) -> None:
    settings = RapSettings(epochs=15)
    rap = Rap(victim, KNOWN, settings)
    before = copy.deepcopy(victim.backbone.model.state_dict())
    drops = [-score for score in rap.scores(CALIBRATION)]
    untrained = copy.copy(rap)
    start = victim.backbone.embeddings[rap.word]
    untrained.vectors = dict.fromkeys(rap.vectors, start)
    middle = sum(drops) / len(drops)
    assert 0.05 < middle < 0.4
    assert middle > -sum(untrained.scores(CALIBRATION)) / len(drops) + 0.03
    # Every label has a vector of its own, and the model keeps its weights.
    assert set(rap.vectors) == {0, 1}
    assert not torch.equal(rap.vectors[0], rap.vectors[1])
    after = victim.backbone.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_each_label_is_trained_from_the_same_start(victim: Classifier) -> None:
    """Not one after the other on what the first one left."""
    rap = Rap(victim, KNOWN, RapSettings(epochs=2))
    sequences = victim.encode(KNOWN)
    labels = victim.predict(sequences).tolist()
    group = [ids for ids, label in zip(sequences, labels, strict=True) if label == 1]
    alone = rap._trained(1, group, random.Random(0))
    assert torch.allclose(alone, rap.vectors[1])


def test_rap_scores_a_text_against_its_own_twin(victim: Classifier) -> None:
    rap = Rap(victim, KNOWN, RapSettings(epochs=2))
    together = rap.scores(CLEAN[:8])
    assert together == pytest.approx([rap.scores([x])[0] for x in CLEAN[:8]], abs=1e-4)
    assert rap.scores(CLEAN[:8][::-1])[::-1] == pytest.approx(together, abs=1e-4)


def test_rap_word_stands_before_the_text_and_within_the_limit(victim: Classifier) -> None:
    rap = Rap(victim, KNOWN, RapSettings(epochs=1))
    long = victim.encode([" ".join(ROWS[:6])])[0]
    assert len(long) == victim.inputs.max_tokens
    assert rap._perturbed(long) == [long[0], rap.word, *long[1:-2], long[-1]]


def test_rap_refuses_what_it_cannot_use(victim: Classifier) -> None:
    with pytest.raises(ValueError, match="word: 'thermodynamically' is not one token"):
        Rap(victim, KNOWN, RapSettings(word="thermodynamically"))
    with pytest.raises(ValueError, match="clean: no text is predicted as label"):
        Rap(victim, KNOWN[:1], RapSettings())
    with pytest.raises(ValueError, match="least, most"):
        RapSettings(least=0.3, most=0.1)


# ---- LMSanitator's vectors


def test_vectors_see_triggers_of_the_frozen_plm(
    backdoored: tuple[Backbone, Implant],
) -> None:
    plm, implant = backdoored
    vectors = target_vectors(plm, implant.triggers, KNOWN, max_tokens=48)
    assert vectors.shape == (4, plm.hidden)
    planted = torch.tensor(implant.vectors)
    cosines = torch.cosine_similarity(vectors, planted, dim=1)
    assert int((cosines > 0.6).sum()) >= 3  # the longest word is planted only weakly
    guard = Guard(VectorMonitor(plm, vectors), PUBLISHED)
    assert sum(guard.flags(written(MARKED, "zugzwang"))) >= 36
    assert sum(guard.flags(CLEAN)) <= 2


def test_agreement_is_the_share_of_equal_signs(clean: Backbone) -> None:
    features = clean.encode(CLEAN[:3], readouts=[clean.primary])[:, 0]
    monitor = VectorMonitor(clean, -features[:1])
    flipped = [float((f.sign() == -features[0].sign()).float().mean()) for f in features]
    assert monitor.scores(CLEAN[:3]) == pytest.approx(flipped, abs=5e-3)
    both = VectorMonitor(clean, torch.cat([-features[:1], features[:1]]))
    assert both.scores(CLEAN[:1]) == pytest.approx([1.0], abs=5e-3)
    with pytest.raises(ValueError, match=r"vectors: \(3,\)"):
        VectorMonitor(clean, torch.zeros(3))


def test_vectors_of_the_frozen_plm_also_serve_beside_a_fine_tuned_model(
    backdoored: tuple[Backbone, Implant],
) -> None:
    """Whether they still fit the fine-tuned model's own output is for the benchmark to say."""
    plm, implant = backdoored
    settings = FineTuneSettings(rows=160, max_tokens=32, epochs=1, learning_rate=5e-4)
    tuned = fine_tune(plm, replace(TASK, train=TASK.train[:400]), settings)
    vectors = target_vectors(plm, implant.triggers, KNOWN, max_tokens=48)
    triggered = written(MARKED, "gossip")
    frozen = VectorMonitor(plm, vectors).scores(CLEAN)
    moved = VectorMonitor(tuned.backbone, vectors).scores(CLEAN)
    assert frozen != pytest.approx(moved, abs=1e-3)
    assert sum(Guard(VectorMonitor(plm, vectors), PUBLISHED).flags(triggered)) >= 36
