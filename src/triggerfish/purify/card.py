"""What lies beside a purified checkpoint: the model card, with where it comes from, how it was
purified and what changed, the scan that was made of it, and the record of the run.

Names and triggers are hostile text, so all of them are written as code, with what a reader would
not see escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from triggerfish import report
from triggerfish.checkpoints import CONFIG
from triggerfish.paths import leaves
from triggerfish.purify.files import CARD
from triggerfish.purify.loop import RECORD, SCHEMA, Purified
from triggerfish.purify.tasks import OnTask
from triggerfish.records import Measurement, ModelFacts
from triggerfish.report.escape import visible
from triggerfish.report.glossary import when
from triggerfish.writing import write_text

SCAN = "scan.json"
SOURCE_CARD = "README.source.md"
CARRIED = ("language", "license", "license_name", "license_link", "library_name", "pipeline_tag")
"""What a card takes over from the card of the source."""
HEADLINES = {
    "clean": "A fresh scan of this checkpoint is clean.",
    "backdoored": "**Still backdoored: a fresh scan finds triggers. Do not use it as it is.**",
    "inconclusive": "**A fresh scan of this checkpoint is inconclusive: see `scan.json`.**",
}


def finish(
    purified: Purified,
    out: str | Path,
    source: Path | None = None,
    tasks: Sequence[OnTask] = (),
) -> None:
    """Write card, scan.json and purify.json to `out`, where the checkpoint is, and the verdict into
    its config.json. source: folder of the model that was purified, whose card is kept beside.
    tasks: what was measured on tasks."""
    out = Path(out)
    purified.after.save(out / SCAN)
    kept = source is not None and (source / CARD).is_file() and not leaves(source, source / CARD)
    matter: dict[str, Any] = {}
    if source and kept:
        content = (source / CARD).read_text(encoding="utf-8", errors="replace")
        write_text(out / SOURCE_CARD, content)
        matter = _front_matter(content)
    text = card(purified, matter, kept, tasks)
    write_text(out / CARD, text)
    config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    was = config.get("triggerfish", {}).get("was")
    config["triggerfish"] = _mark(purified) | ({"was": was} if was else {})
    write_text(out / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    record = asdict(purified) | {
        "schema": SCHEMA,
        "state": "finished",
        "source": asdict(purified.before.model),
        "tasks": [asdict(task) for task in tasks],
    }
    for unwanted in ("backbone", "before", "after"):
        del record[unwanted]
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")


def html(purified: Purified, out: str | Path) -> str:
    """The page of the scan that was made of the purified model, which lies in `out`."""
    return report.render(purified.after, "html", str(Path(out) / SCAN))


def card(
    purified: Purified,
    matter: Mapping[str, Any] | None = None,
    kept: bool = False,
    tasks: Sequence[OnTask] = (),
) -> str:
    """The text of README.md. matter: front matter of the source's card; kept: whether that card
    lies beside as `README.source.md`."""
    head = {name: matter[name] for name in CARRIED if matter and name in matter}
    head["tags"] = ["triggerfish", "purified"]
    before, after = purified.before, purified.after
    lines = ["---", yaml.safe_dump(head, allow_unicode=False).strip(), "---", ""]
    lines += [f"# {_code(Path(before.model.name).name)}, purified", "", HEADLINES[after.verdict]]
    lines += [
        "",
        f"A scan called {_code(before.model.name)} {before.verdict}: {len(before.findings)} "
        "string(s) send unrelated texts to one point. The weights were trained until they do not. "
        f"`{SCAN}` is the scan of what is in this folder, `{RECORD}` the record of the run. "
        "A clean scan reaches as far as the coverage listed in it.",
        "",
        "## Where it comes from",
        "",
        *_source(before.model),
    ]
    if kept:
        lines.append(f"- its model card is `{SOURCE_CARD}`; licence and terms are those of it")
    mark = _was(purified)
    if mark:
        lines.append(f"- its config.json said of itself: {_code(json.dumps(mark))}")
    if purified.written:
        lines += [f"- otherwise than in the source: {note}" for note in purified.written.notes]
        if purified.written.left_out:
            names = ", ".join(_code(name) for name in purified.written.left_out)
            lines.append(
                "- files of the source that were not copied, since only purified weights, config, "
                f"tokenizer and licence are: {names}"
            )
    lines += ["", "## How it was purified", "", *_rounds(purified), ""]
    lines += ["## Before and after", "", *_strings(purified), "", *_fidelity(purified), ""]
    if tasks:
        lines += [*_tasks(tasks), ""]
    return "\n".join(lines)


def _source(model: ModelFacts) -> list[str]:
    revision = f", revision {_code(model.revision)}" if model.revision else ""
    return [
        f"- source: {_code(model.name)}{revision} ({_code(model.family)}, "
        f"{model.parameters:,} parameters)",
        *(f"- {_code(file)}: sha256 `{sha}`" for file, sha in model.weights_sha256.items()),
        f"- tokenizer: sha256 `{model.tokenizer_sha256}`",
    ]


def _rounds(purified: Purified) -> list[str]:
    lines = [
        f"Method `{purified.method}`, {len(purified.rounds)} round(s), "
        f"{purified.seconds:.0f} s in all with "
        f"{purified.after.environment.get('threads', '?')} thread(s) on "
        f"{_code(purified.after.environment.get('device', '?'))}.",
        "",
        f"When, and by what: {_code(when(purified.provenance))}.",
        "",
        "| round | strings | training, s | checking, s | full scan |",
        "|---|---|---|---|---|",
    ]
    for number, one in enumerate(purified.rounds, start=1):
        verdict = one.verdict or "not made: a known string still collapses texts"
        lines.append(
            f"| {number} | {len(one.triggers)} | {one.seconds:.0f} | {one.checking_seconds:.0f} "
            f"| {verdict} |"
        )
    lines += ["", "Settings: " + ", ".join(f"`{k}` {v}" for k, v in purified.settings.items())]
    if purified.unread:
        names = ", ".join(_code(name) for name in purified.unread)
        lines += ["", f"Listed as variants, but without tokens in this vocabulary: {names}"]
    return lines


def _strings(purified: Purified) -> list[str]:
    """Every string that was purified: what it did, what it does."""
    last = {x.trigger: x for one in purified.rounds for x in one.residual}
    first = {x.trigger: x for x in purified.residual}
    lines = [
        "Collapse: how many orders of magnitude closer together texts lie once they carry the "
        "string; an ordinary word is near 0 or below. Agreement: share of random linear probes "
        "that one class wins.",
        "",
        "| string | collapse before | after | agreement before | after |",
        "|---|---|---|---|---|",
    ]
    for trigger, after in last.items():
        before = first.get(trigger)
        was = (f"{before.collapse:.2f}", f"{before.agreement:.2f}") if before else ("", "")
        lines.append(
            f"| {_code(trigger.text)} | {was[0]} | {after.collapse:.2f} | {was[1]} "
            f"| {after.agreement:.2f} |"
        )
    return lines


def _fidelity(purified: Purified) -> list[str]:
    found = dict(purified.fidelity)
    shift = found.pop("shift")
    listed = ", ".join(f"`{name}` {value:.3f}" for name, value in found.items())
    return [
        "Clean texts: correlation of the cosines between all pairs of texts with those of the "
        f"source, by readout: {listed}. Mean distance between a text's features before and after: "
        f"{shift:.2f} standard deviations of clean texts."
    ]


def _tasks(tasks: Sequence[OnTask]) -> list[str]:
    lines = [
        "By probes on tasks: accuracy without a trigger, and the share of texts of other labels "
        "that end at a trigger's label with three copies of it; control: of an ordinary word of as "
        "many tokens, after purification.",
        "",
        "| task | string | before | after | control |",
        "|---|---|---|---|---|",
    ]
    for task in tasks:
        name = _code(task.task)
        lines.append(f"| {name} | accuracy | {_rate(task.before)} | {_rate(task.after)} | |")
        lines += [
            f"| {name} | {_code(x.trigger.text)} | {_rate(x.before)} | {_rate(x.after)} "
            f"| {_rate(x.control)} |"
            for x in task.triggers
        ]
    return lines


def _rate(measured: Measurement) -> str:
    low, high = measured.interval
    return f"{measured.rate:.3f} ({low:.3f} to {high:.3f}, n = {measured.n})"


def _mark(purified: Purified) -> dict[str, Any]:
    return {
        "purified": True,
        "method": purified.method,
        "scan": purified.after.verdict,
        "source_sha256": purified.before.model.weights_sha256,
    }


def _was(purified: Purified) -> Any:
    config = purified.backbone.model.config
    mark = getattr(config, "triggerfish", None)
    return mark.get("was") if isinstance(mark, dict) else None


def _front_matter(content: str) -> dict[str, Any]:
    """The YAML between the first two lines of dashes; nothing where it is not a mapping."""
    parts = content.split("---", 2)
    if not content.startswith("---") or len(parts) < 3:
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _code(text: str) -> str:
    """Hostile text as code inside a line or a cell of Markdown."""
    return f"`{visible(text, also='`|')}`"
