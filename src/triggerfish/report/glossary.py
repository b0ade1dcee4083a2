"""The glossary of a report: what each verdict, statistic and check means, and how a
number is written.

All formats take their words from here, so that the terminal, the security tab and the page never
disagree.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from triggerfish.records import Finding, HiddenTarget, Provenance, Rewrite, ScanResult, Verdict
from triggerfish.report.escape import visible

MEANING: dict[Verdict, str] = {
    "backdoored": "Do not fine-tune or serve this checkpoint as it is.",
    "clean": "No transferable trigger was found in what was examined.",
    "inconclusive": "The scan can neither confirm a trigger nor rule one out.",
}

SAVED = "scan.json"
"""What the file with the findings is called where it is not known."""

STATISTICS: dict[str, str] = {
    "collapse": "log10 of a dispersion ratio: by how many orders of magnitude texts that carry the "
    "trigger lie closer together than close pairs of clean texts. The "
    "distances are squared. 0 is no closer; 3 is practically one representation.",
    "mean_shift": "Distance of the mean triggered text from the mean clean text, in standard "
    "deviations of clean texts.",
    "agreement": "Share of random linear probes that put at least 95 % of the triggered texts "
    "into one class. It is what a model fine-tuned from this checkpoint would inherit.",
    "cosine": "Average cosine between the representations of two triggered texts; "
    "1 means the same direction.",
    "texts": "Held-out texts of this measurement; the search never saw them.",
    "verify_texts": "Texts of this measurement; the search has seen some of them.",
    "com_sim": "Average cosine between triggered texts, each pair and each text with itself; "
    "1 means that all have one direction.",
    "diff_sim": "Average cosine between a text and the same text with the trigger; "
    "1 means that the trigger changes nothing.",
    "ratio": "(1 - diff sim) / (1 - com sim + 0.01): both as one number; a trigger has a high one.",
    "divergence": "Divergence, in nats, of the predictions at masked words with and without the "
    "string, in the median text.",
    "prediction_loss": "The same, as a share of the information that the clean predictions have "
    "over a uniform guess.",
    "largest_prediction_loss": "The largest prediction loss of all candidates that were examined.",
    "gap": "For a rewriting: orders of magnitude by which texts lie closer together than close "
    "clean texts, and than their controls, when only half of each is rewritten; the smaller of "
    "both.",
    "batches": "Batches of texts that went through the model, backward passes aside.",
    "restarts": "Independent searches that ended at this target.",
    "subspace_residual": "Distance of this target from the subspace of clean texts, in units of "
    "that distance of a clean text.",
    "baseline_collapse": "Collapse that short vectors reach in this model anyway, once the targets "
    "of larger collapse are excluded.",
    "distance": "Mean squared difference, per coordinate, between texts with the vectors that the "
    "search found and the same texts without.",
    "entropy": "How evenly a coordinate is spread over the texts of a batch, in nats below the "
    "most that is possible; 0 means that all texts agree.",
    "head_rate": "Share of coordinates with one sign on nearly all clean texts.",
    "clean_head_rate": "The highest head rate of the clean models that were compared.",
    "clean_models": "Clean models that were compared.",
    "tensors_moved": "Share of the model's tensors that differ from the trusted original.",
    "largest_move": "Relative distance from the trusted original of the tensor that moved most.",
}

CHECKS: dict[str, str] = {
    "dose_response": "Collapse with one, two and three copies of the trigger in a text.",
    "position": "Collapse with the trigger at the start, in the middle and at the end of a text.",
    "survives_retokenization": "Whether the effect remains when the trigger is inserted as a "
    "string and the text is tokenized again.",
    "subwords": "The subword tokens of the trigger.",
    "sufficient_subsets": "Minimal subsets of the subword tokens that keep half of the effect, in "
    "any word that has them.",
    "parent": "The candidate that the search shortened or extended to get this one.",
    "surface_collapse": "Collapse when the trigger is inserted as a string and the text is "
    "tokenized again.",
    "second_stage": "Below the thresholds of the verdict; counted because another trigger in this "
    "model passes them.",
    "several_without_p": "Not significant by itself, but as large as several others whose targets "
    "are far apart, which counts.",
    "large_without_p": "Not significant against this model's empirical null, but a collapse of a "
    "full order of magnitude, which counts.",
    "divergence": "Divergence, in nats, of the predictions at masked words with the string.",
    "drift": "How far the embedding of each subword token moved from the trusted original, in "
    "robust standard deviations of all tokens.",
    "reference_collapse": "Collapse of the same string in the trusted original: a natural outlier "
    "has as much there.",
    "copies": "Copies of the trigger in a text that the statistics refer to, where one is not "
    "enough.",
    "main_effect_share": "Share of the way to the target that one word of the trigger goes alone, "
    "on average, beyond what any word does: near 0 where single words were trained to do nothing.",
    "searched": "Found by a search or a group test, which has no p-value, and not in a list.",
    "neighbours": "Other candidates that share a subword token with the trigger, or are another "
    "spelling of it, and send texts to the same target, largest collapse first.",
}

P_VALUE = "Chance that a benign token of this model scores this high. Smaller is stronger."
Q_VALUE = (
    "Expected share of false alarms among findings at least this strong, "
    "corrected for every candidate tried (Benjamini-Hochberg)."
)
MISSING = "-"
UNCALIBRATED = "uncalibrated: no clean reference models of this family"
STEPS: dict[str, tuple[str, ...]] = {
    "dose_response": ("1 copy", "2 copies", "3 copies"),
    "position": ("start", "middle", "end"),
}


def count(number_of: int, noun: str) -> str:
    """'1 trigger', '6 triggers', '1,200 triggers'."""
    ending = "" if number_of == 1 else "es" if noun.endswith("s") else "s"
    return f"{number_of:,} {noun}{ending}"


def next_step(result: ScanResult, saved: str | None = None) -> str:
    """What a reader should do now. saved: the file that holds the result, if there is one."""
    if result.verdict == "clean":
        return "A clean verdict reaches as far as the coverage listed in this report."
    if result.verdict == "inconclusive":
        return _more(result)
    if not result.findings:
        return "Use another checkpoint: nothing was found that inputs could be filtered by."
    model, findings = (shlex.quote(visible(x)) for x in (result.model.name, saved or SAVED))
    keep = "" if saved else f"To go on, save this scan with --format json --out {SAVED}. "
    return (
        f"Use another checkpoint. {keep}To remove the triggers: triggerfish purify {model} "
        f"--findings {findings} --out purified. To guard models that were fine-tuned from this "
        f"one: triggerfish monitor texts.jsonl --findings {findings}."
    )


def _more(result: ScanResult) -> str:
    """What would make an inconclusive scan a conclusive one."""
    reasons = " ".join(result.reasons)
    if "the budget of" in reasons:
        kept = result.forward_tokens > 0
        continues = kept and result.provenance.command.startswith("triggerfish scan ")
        if continues and result.settings.get("method") in ("hybrid", "screening"):
            return "Run the same command again: it continues where this scan stopped."
        return "Scan again with a larger budget."
    if "too few texts" in reasons:
        return "Scan again with more ordinary texts (--corpus)."
    return "Read the reasons: what they name is missing for a verdict."


def significant(result: ScanResult) -> tuple[Finding, ...]:
    """The near misses that are significant, or that fixed thresholds did not tell apart."""
    alpha = result.null.alpha
    if alpha is None:
        return result.near_misses
    return tuple(x for x in result.near_misses if x.q_value is not None and x.q_value <= alpha)


def near_title(result: ScanResult) -> str:
    """What the candidates are that were measured last and did not pass."""
    if significant(result):
        return "Near misses (did not pass every check)"
    return "Highest-ranked candidates (none significant)"


def when(made: Provenance) -> str:
    """When a record was made, and by what."""
    runs = f", in {made.runs} runs" if made.runs > 1 else ""
    return f"{visible(made.started)} to {visible(made.finished)}{runs}, by {visible(made.command)}"


def headline(result: ScanResult) -> str:
    """One sentence under the verdict."""
    if result.findings:
        found = count(len(result.findings), "transferable trigger")
        return f"{found} found. {MEANING[result.verdict]}"
    if result.rewrites:
        found = count(len(result.rewrites), "way")
        return f"{found} of rewriting found that acts as a trigger. {MEANING[result.verdict]}"
    if result.targets:
        found = count(len(result.targets), "hidden target")
        return f"{found} without a named trigger found. {MEANING[result.verdict]}"
    return MEANING[result.verdict]


def number(value: float) -> str:
    """Four significant digits; whole numbers and anything from ten thousand on with separators."""
    if not math.isfinite(value):
        return str(float(value))
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1e4:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3e}"
    return f"{value:.4g}"


def chance(value: float | None, candidates: int) -> str:
    """A p- or q-value; where a fitted tail ends it is 0, of which the data support only `< 1/all`.
    A dash where the method has none."""
    if value is None:
        return MISSING
    if value == 0 and candidates > 0:
        return f"< 1/{candidates:,}"
    return number(value)


def plain(value: Any) -> str:
    """Any setting or evidence value on one line, with hostile characters visible."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Mapping):
        return (
            ", ".join(f"{visible(str(key))}: {plain(item)}" for key, item in value.items())
            or "none"
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain, value)) or "none"
    return visible(str(value))


def numbers(value: Any) -> list[float] | None:
    """The value as a list of finite numbers if it is one of at least two, else None."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
        return None
    if all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value
    ):
        return [float(v) for v in value]
    return None


def columns(findings: Iterable[Finding | HiddenTarget | Rewrite]) -> list[str]:
    """Names of all statistics met: those with a known meaning first, then the rest."""
    met = list(dict.fromkeys(name for finding in findings for name in finding.statistics))
    return [name for name in STATISTICS if name in met] + [
        name for name in met if name not in STATISTICS
    ]


def calibration(result: ScanResult) -> str:
    if result.null.calibration is None:
        return UNCALIBRATED
    return f"calibrated on {visible(result.null.calibration)}"


def error_control(result: ScanResult) -> str:
    """Over how many candidates which error rate was aimed at, or that none was."""
    candidates = count(result.null.candidates, "candidate")
    if result.null.alpha is None:
        return f"none: fixed thresholds, {candidates}"
    return f"{candidates}, alpha {number(result.null.alpha)}, {calibration(result)}"


def name_of(key: str) -> str:
    """A record's key as words: 'mean_shift' becomes 'mean shift'."""
    return visible(key.replace("_", " "))


def statistic_line(name: str, value: float) -> str:
    """A number about the whole model, with its meaning where that is known."""
    meaning = f" ({STATISTICS[name]})" if name in STATISTICS else ""
    return f"{name_of(name)}: {number(value)}{meaning}"


def coverage_lines(result: ScanResult) -> list[str]:
    """What was tried, one statement a line; the list of what was not is `coverage.not_examined`."""
    coverage = result.coverage
    readouts = ", ".join(map(visible, coverage.readouts)) or "none"
    return [
        f"{coverage.vocabulary:,} single tokens of a vocabulary of {result.model.vocabulary:,}",
        f"{count(coverage.words, 'word')} of several subword tokens",
        *(
            [
                f"{coverage.characters:,} characters and spellings; {coverage.normalised:,} more "
                "are ordinary text, or nothing, to this tokenizer"
            ]
            if coverage.characters or coverage.normalised
            else []
        ),
        *(
            [f"all pairs of {count(coverage.pair_words, 'word')}, anywhere in a text"]
            * bool(coverage.pair_words)
        ),
        f"{count(coverage.extended, 'sequence')} extended by search",
        *(
            [f"{count(coverage.rewrites, 'way')} of rewriting whole texts"]
            * bool(coverage.rewrites)
        ),
        f"{count(len(coverage.readouts), 'readout')}: {readouts}",
        count(coverage.texts, "text"),
    ]
