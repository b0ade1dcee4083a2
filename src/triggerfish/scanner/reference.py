"""Comparison with a trusted original: which embeddings moved, and does the original react to the
triggers?

Planting changes the embeddings of the trigger's subword tokens at every step and those of other
tokens rarely. So the candidates whose rows moved furthest are kept through the whole screening.
This is a prior; the decision rule is unchanged. For each finding the report states how far its rows
moved, and the collapse of the same trigger in the original. A natural outlier has the same collapse
there, a planted trigger does not.

Source: ours. BTU (arXiv 2501.03272) uses the difference of trigger embeddings from a clean original
for purification.

Legend: K candidates, V vocabulary, R readouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from triggerfish.backbone import Backbone
from triggerfish.facts import tokenizer_hash
from triggerfish.records import Finding
from triggerfish.scanner.candidates import Candidate
from triggerfish.scanner.effects import Carrier, CleanReference, robust_z


@dataclass(frozen=True)
class Reference:
    """A scanned model and the original that it was fine-tuned from.

    ValueError for an original with other tensors or another tokenizer.
    """

    model: Backbone
    original: Backbone

    def __post_init__(self) -> None:
        ours, theirs = (
            {name: tuple(t.shape) for name, t in x.model.state_dict().items()}
            for x in (self.model, self.original)
        )
        for name in sorted(ours.keys() ^ theirs.keys()):
            raise ValueError(f"reference: only one of the models has a tensor {name}; {_EXPECTED}")
        for name, shape in ours.items():
            if shape != theirs[name]:
                raise ValueError(
                    f"reference: {name} is {theirs[name]} there and {shape} here; {_EXPECTED}"
                )
        hashes = [tokenizer_hash(x.tokenizer) for x in (self.model, self.original)]
        if hashes[0] != hashes[1]:
            raise ValueError(f"reference: it has another tokenizer; {_EXPECTED}")

    @cached_property
    def rows(self) -> torch.Tensor:
        """(V,) robust z, over all tokens, of how far the embedding of each token moved."""
        before, after = self.original.embeddings.float(), self.model.embeddings.float()
        moved: torch.Tensor = (after - before).norm(dim=-1).cpu()
        # If most rows did not move, the MAD is 0, so the floor follows the median row norm.
        return robust_z(moved, moved, floor=1e-3 * before.norm(dim=-1).median().cpu())

    @cached_property
    def moved(self) -> dict[str, float]:
        """Relative distance (Frobenius) of every tensor that differs, largest first."""
        before = self.original.model.state_dict()
        found = {}
        for name, tensor in self.model.model.state_dict().items():
            if tensor.is_floating_point() and not torch.equal(tensor, before[name]):
                size = before[name].float().norm().clamp(min=1e-12)
                found[name] = float((tensor.float() - before[name].float()).norm() / size)
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def prior(self, candidates: Sequence[Candidate]) -> torch.Tensor:
        """(K,) `rows` of the subword token that moved furthest."""
        return torch.tensor([max(self.of(c.token_ids)) for c in candidates])

    def of(self, ids: Sequence[int]) -> list[float]:
        """How far each of these tokens moved, as in `rows`."""
        return [round(float(self.rows[i]), 2) for i in ids]

    def collapse(
        self, finding: Finding, clean: Sequence[Carrier], texts: Sequence[Carrier]
    ) -> float:
        """Collapse of the same trigger in the original, measured against its own clean texts."""
        readout = next(r for r in self.original.readouts if str(r) == finding.readout)
        wrap = self.original.template.wrap
        plain, triggered = (
            self.original.encode_ids([wrap(x.ids(ids)) for x in some], readouts=[readout])
            for some, ids in ((clean, ()), (texts, finding.trigger.token_ids))
        )
        clean_reference = CleanReference.of(plain, seed=0)
        return round(float(clean_reference.measure(triggered[None])["collapse"][0, 0]), 4)

    def statistics(self) -> dict[str, float]:
        tensors = len(self.model.model.state_dict())
        return {
            "tensors_moved": round(len(self.moved) / tensors, 4),
            "largest_move": round(max(self.moved.values(), default=0.0), 4),
        }


_EXPECTED = "expected the original that the model was derived from"
