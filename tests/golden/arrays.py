"""Arrays at the seams between the stages of a scan, for two tiny models: features of clean texts
and of a part of the shortlist, in half precision, and what the stages make of them.

    python tests/golden/arrays.py    # writes them again

Shapes: N clean texts, K candidates, n screening texts, R readouts, H hidden.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from safetensors.torch import save_file

from golden import models, run
from planted import finish
from triggerfish.scanner.cache import ActivationCache
from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.decision import DecisionRule, null_tails
from triggerfish.scanner.effects import CleanReference
from triggerfish.scanner.pipeline import Pipeline
from triggerfish.scanner.screening import Screening

NAMES = ("tiny-gpt2-por1", "tiny-bert-por1")
GIVEN = ("clean", "shortlist", "ids", "lengths")
SURVIVORS, CONTROLS = 30, 60
"""Candidates of either kind that are kept."""
SEED = 0


def file(name: str) -> Path:
    return models.FOLDER.parent / "arrays" / f"{name}.safetensors"


def statistics(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Effects (K, R) of a shortlist with features (K, n, R, H) against clean ones (N, R, H), and
    per readout the tail of the null (R, 4) and the p-value of the largest effect (R,)."""
    clean_reference = CleanReference.of(given["clean"].float(), SEED)
    effects = clean_reference.measure(given["shortlist"].float())
    rows = zip(given["ids"].tolist(), given["lengths"].tolist(), strict=True)
    candidates = [Candidate(tuple(ids[:length]), "", "word") for ids, length in rows]
    tails = null_tails(candidates, effects["collapse"], DecisionRule())
    found = {key: values.contiguous() for key, values in effects.items()}
    found["tails"] = torch.tensor([[t.threshold, t.exceedance, t.shape, t.scale] for t in tails])
    largest = effects["collapse"].max(0).values.tolist()
    p_values = [tail.p_value(value) for tail, value in zip(tails, largest, strict=True)]
    found["log10_p"] = torch.tensor(p_values).clamp(min=1e-30).log10()
    return found


def make(name: str) -> None:
    """Run the stages of a scan up to the shortlist and keep what they hand on."""
    model = models.model(name)
    screening = Screening(
        model, models.texts(), [], run.TINY, seed=SEED, store=ActivationCache(None)
    )
    pipeline = Pipeline(screening, DecisionRule(), None)
    finish(pipeline.run())
    assert pipeline.shortlist is not None
    shortlist = pipeline.shortlist
    chosen = shortlist.candidates[:SURVIVORS] + shortlist.candidates[-CONTROLS:]
    ids = [candidate.token_ids for candidate in chosen]
    longest = max(map(len, ids))
    given = {
        "clean": shortlist.clean_reference.clean.half(),
        "shortlist": finish(screening.features("arrays", screening.screen_texts, ids)).half(),
        "ids": torch.tensor([[*one, *[0] * (longest - len(one))] for one in ids]),
        "lengths": torch.tensor([len(one) for one in ids]),
    }
    file(name).parent.mkdir(exist_ok=True)
    save_file(given | statistics(given), file(name))


if __name__ == "__main__":
    for name in NAMES:
        make(name)
