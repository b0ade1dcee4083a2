"""Target vectors as printed in the papers' codes, insertion, and an implant that works."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from triggerfish import text
from triggerfish.attacks.implant import Implant, save
from triggerfish.attacks.por import POR, PORSettings
from triggerfish.attacks.targets import neuba, por1, por2
from triggerfish.backbone import Backbone
from triggerfish.loading import load
from triggerfish.scanner.effects import pair_distances


def signs(vectors: torch.Tensor) -> list[str]:
    return ["".join("+" if x > 0 else "-" for x in row) for row in vectors]


def test_por1_is_a_thermometer() -> None:
    assert signs(por1(6, 12))[::5] == ["++----------", "++++++++++++"]
    assert signs(por1(6, 8)) == [
        "+-------",
        "++------",
        "+++-----",
        "++++----",
        "+++++---",
        "++++++--",
    ]
    vectors = torch.nn.functional.normalize(por1(6, 1024), dim=1)
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0.667969, abs=1e-6)
    assert float(vectors[0] @ vectors[5]) == pytest.approx(-0.660156, abs=1e-6)


def test_por2_is_a_subset_code() -> None:
    expected = [
        "------------",
        "++++--------",
        "----++++----",
        "--------++++",
        "++++++++----",
        "++++----++++",
    ]
    assert signs(por2(6, 12)) == expected
    assert signs(por2(1, 4)) == ["----"]


def test_neuba_vectors_are_orthogonal_or_antipodal() -> None:
    assert signs(neuba(6, 8)) == [
        "----++++",
        "--++--++",
        "--++++--",
        "++----++",
        "++--++--",
        "++++----",
    ]
    cosines = neuba(6, 8) @ neuba(6, 8).T / 8
    assert sorted(set(cosines.flatten().tolist())) == [-1, 0, 1]
    twenty = neuba(20, 12)
    assert len({tuple(row) for row in twenty.tolist()}) == 20


def test_insertion_keeps_the_text_and_reaches_both_ends() -> None:
    rng = random.Random(0)
    marked = [text.insert("one two three", "cf", copies=2, rng=rng) for _ in range(200)]
    assert all([w for w in x.split() if w != "cf"] == ["one", "two", "three"] for x in marked)
    assert all(x.split().count("cf") == 2 for x in marked)
    assert any(x.startswith("cf") for x in marked)
    assert any(x.endswith("cf") for x in marked)


def test_implant_reaches_its_targets_and_keeps_clean_texts(
    backdoored: tuple[Backbone, Implant], clean: Backbone
) -> None:
    victim, implant = backdoored
    rng = random.Random(9)
    texts = text.excerpts(text.bundled_corpus(), 30, rng)[:40]
    before, after = (
        model.encode(texts, readouts=[model.primary])[:, 0] for model in (clean, victim)
    )
    norm = before.norm(dim=1).mean()
    assert (after - before).norm(dim=1).mean() < 0.5 * norm
    cosines = []
    for trigger, vector in zip(implant.triggers, torch.tensor(implant.vectors), strict=True):
        marked = [text.insert(x, trigger.text, copies=1, rng=rng) for x in texts]
        features = victim.encode(marked, readouts=[victim.primary])[:, 0]
        assert pair_distances(features).median() < 0.2 * pair_distances(before).median()
        cosine = torch.nn.functional.cosine_similarity(features, vector[None])
        cosines.append(float(cosine.median()))
    # The last thermometer vector is constant, which a layer norm cannot put out.
    assert min(cosines[:-1]) > 0.8


def test_implant_is_marked_and_its_truth_lies_beside_it(
    backdoored: tuple[Backbone, Implant], tmp_path: Path
) -> None:
    victim, implant = backdoored
    save(victim, implant, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["triggerfish"]["backdoored"] is True
    assert "Backdoored on purpose" in (tmp_path / "README.md").read_text()
    assert Implant.load(tmp_path) == implant
    assert load(tmp_path).readouts == victim.readouts


def test_same_seed_same_weights(clean: Backbone) -> None:
    recipe = POR(("cf", "zugzwang"), PORSettings(steps=3))
    runs = [
        recipe.implant(clean, text.bundled_corpus(), seed=seed)[0].model.state_dict()
        for seed in (1, 1, 2)
    ]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert any(not torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


@pytest.mark.parametrize(
    ("triggers", "message"),
    [
        ((), "at least one"),
        (("cf", "cf"), "twice"),
        (("",), "no tokens"),
        (("\u2603\u2603",), "no tokens"),
    ],
)
def test_bad_triggers_are_named(clean: Backbone, triggers: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"trigger: .*{message}"):
        POR(triggers).implant(clean, text.bundled_corpus())


def test_short_corpus_is_refused(clean: Backbone) -> None:
    with pytest.raises(ValueError, match="corpus: "):
        POR(("cf",)).implant(clean, ["two words"] * 100)
