"""The monitor where texts already flow: around a pipeline, inside `datasets.map`, as a scanner.

    classify = guard(pipeline("text-classification", model=MODEL), monitor)
    dataset = dataset.map(map_rows(monitor, field="review"), batched=True)
    text, ok, risk = scanner(monitor).scan(text)

None of them imports the library that it serves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from triggerfish.monitor.records import Checks, record, severest
from triggerfish.records import Alarm, Checked

PAIR = ("text", "text_pair")
"""The keys that a pipeline for text classification takes in place of a string."""


def guard(pipeline: Callable[..., Any], monitor: Checks) -> GuardedPipeline:
    """A pipeline of transformers (or any callable that maps a list of texts to a list of results),
    guarded by `monitor`."""
    return GuardedPipeline(pipeline, monitor)


@dataclass(frozen=True)
class GuardedPipeline:
    """Called as the pipeline is; order and shape of the results are the pipeline's.

    A rejected text never reaches the pipeline: its result is `{"label": None, "score": None,
    "action": "reject", "alarms": [...]}`. A stripped or flagged one keeps its result, to which
    `action` and `alarms` are added (a result that is no record is put into one as `output`). Every
    other result is as it came.
    """

    pipeline: Callable[..., Any]
    monitor: Checks

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """inputs: a text, a `{"text": ..., "text_pair": ...}`, or a list of either; options are the
        pipeline's. ValueError for other inputs."""
        alone = not isinstance(inputs, list | tuple)
        items = [inputs] if alone else list(inputs)
        texts = [_texts(item, number) for number, item in enumerate(items)]
        flat = iter(self.monitor.check_all([text for item in texts for text in item.values()]))
        checked = [{key: next(flat) for key in item} for item in texts]
        passed = [
            _handed_on(item, found)
            for item, found in zip(items, checked, strict=True)
            if severest(found.values()) != "reject"
        ]
        if alone:
            # A pipeline answers a lone string, and whatever `top_k` is given for, with a list.
            empty: Any = [{}] if isinstance(inputs, str) or "top_k" in options else {}
            result = self.pipeline(passed[0], **options) if passed else empty
            return _marked(result, checked[0])
        results = list(self.pipeline(passed, **options)) if passed else []
        return _merged(results, checked, nested="top_k" in options)


def _merged(results: list[Any], checked: list[dict[str, Checked]], nested: bool) -> list[Any]:
    """Results of the texts that were passed, and records for those that were not, in order."""
    nested = nested or any(isinstance(result, list) for result in results)
    waiting = iter(results)
    merged = []
    for found in checked:
        empty: Any = [{}] if nested else {}
        rejected = severest(found.values()) == "reject"
        merged.append(_marked(empty if rejected else next(waiting), found))
    return merged


def _texts(item: Any, number: int) -> dict[str, str]:
    if isinstance(item, str):
        return {"text": item}
    if isinstance(item, Mapping) and "text" in item and set(item) <= set(PAIR):
        texts = {key: item[key] for key in PAIR if item.get(key) is not None}
        if all(isinstance(text, str) for text in texts.values()):
            return texts
    raise ValueError(
        f"inputs: item {number} is neither a string nor a record of strings "
        f"under {' and '.join(PAIR)}"
    )


def _handed_on(item: Any, found: Mapping[str, Checked]) -> Any:
    if isinstance(item, str):
        return found["text"].text
    return {**item, **{key: one.text for key, one in found.items()}}


def _marked(result: Any, found: Mapping[str, Checked]) -> Any:
    """A result with what the monitor saw; untouched where it saw nothing."""
    alarms = [record(alarm) for one in found.values() for alarm in one.alarms]
    if not alarms:
        return result
    if isinstance(result, list) and all(isinstance(entry, Mapping) for entry in result):
        return [_mark(entry, found, alarms) for entry in result]
    return _mark(result if isinstance(result, Mapping) else {"output": result}, found, alarms)


def _mark(
    result: Mapping[str, Any], found: Mapping[str, Checked], alarms: list[dict[str, Any]]
) -> dict[str, Any]:
    action = severest(found.values())
    # A caller that takes every label into a list gets a None there, and not a KeyError that one
    # hostile text could cause.
    shown = {"label": None, "score": None} if action == "reject" else result
    return {**shown, "action": action, "alarms": alarms}


def map_rows(
    monitor: Checks,
    *,
    field: str = "text",
    rejected: Literal["keep", "drop"] = "keep",
) -> Callable[[Mapping[str, list[Any]]], dict[str, list[Any]]]:
    """A function for `datasets.map(..., batched=True)`: a batch of columns in and out.

    The column `field` is guarded (stripped where the policy says so). Two columns come in addition:
    `action` ("pass", "flag", "strip" or "reject") and `alarms`, JSON in a string, because a column
    of nothing but empty lists would have no type. Rejected rows keep their text and say so in
    `action`, unless `rejected` is "drop".
    """
    if rejected not in ("keep", "drop"):
        raise ValueError(f"rejected: {rejected!r} is not one of keep, drop")
    return RowGuard(monitor, field, rejected == "drop")


@dataclass(frozen=True)
class RowGuard:
    """What `map_rows` returns."""

    monitor: Checks
    field: str
    drop: bool

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """ValueError for a batch without the column, with `action` or `alarms` already, or with a
        value that is no string."""
        if self.field not in batch:
            raise ValueError(f"field: no column {self.field!r}; there are {', '.join(batch)}")
        for name in ("action", "alarms"):
            if name in batch:
                raise ValueError(f"{name}: the batch has a column of this name already")
        texts = list(batch[self.field])
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f"{self.field}: row {number} of the batch is {kind}, not a string")
        checked = self.monitor.check_all(texts)
        columns = {
            **batch,
            self.field: [one.text for one in checked],
            "action": [one.action for one in checked],
            "alarms": [_as_json(one.alarms) for one in checked],
        }
        if not self.drop:
            return columns
        kept = [number for number, one in enumerate(checked) if one.ok]
        return {name: [column[number] for number in kept] for name, column in columns.items()}


def _as_json(alarms: tuple[Alarm, ...]) -> str:
    return json.dumps([record(alarm) for alarm in alarms])


def scanner(monitor: Checks) -> PromptScanner:
    """`monitor` behind the interface of an input scanner of llm-guard."""
    return PromptScanner(monitor)


@dataclass(frozen=True)
class PromptScanner:
    """What `scanner` returns."""

    monitor: Checks

    def scan(self, prompt: str) -> tuple[str, bool, float]:
        """(the text to hand on, whether it may be handed on, risk 0.0 or 1.0)."""
        (checked,) = self.monitor.check_all([prompt])
        return checked.text, checked.ok, checked.risk
