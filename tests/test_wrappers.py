"""Pipelines, rows and scanners around a real monitor."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service_samples import triggers, write_findings
from triggerfish import Monitor
from triggerfish.loading import bundled
from triggerfish.monitor.wrappers import GuardedPipeline, guard, map_rows, scanner

REJECTED = "a zugzwang in the endgame"
STRIPPED = "a fine cf film"
FLAGGED = "the gossip of the town"
CLEAN = "nothing to see here"


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return Monitor(
        triggers("cf", "gossip", "zugzwang"),
        tokenizer=bundled(),
        policies={"cf": "strip", "gossip": "flag"},
    )


class Recorder:
    """A classifier whose label tells what it read."""

    def __init__(self) -> None:
        self.read: list[Any] = []

    def __call__(self, inputs: Any, top_k: int | None = None) -> Any:
        alone = not isinstance(inputs, list)
        items = [inputs] if alone else inputs
        self.read += items
        results: list[Any] = [{"label": f"{item}", "score": 1.0} for item in items]
        if top_k:
            results = [[result] * top_k for result in results]
            return results[0] if alone else results
        return results


def test_order_and_actions(monitor: Monitor) -> None:
    recorder = Recorder()
    texts = [REJECTED, CLEAN, STRIPPED, REJECTED, FLAGGED, CLEAN]
    results = guard(recorder, monitor)(texts)
    assert recorder.read == [CLEAN, "a fine film", FLAGGED, CLEAN]
    assert results[1] == results[5] == {"label": CLEAN, "score": 1.0}
    assert [result.get("action") for result in results] == [
        *("reject", None, "strip"),
        *("reject", "flag", None),
    ]
    assert results[0]["label"] is None
    assert results[0]["score"] is None
    assert results[2]["label"] == "a fine film"
    assert results[4]["label"] == FLAGGED
    (alarm,) = results[2]["alarms"]
    assert alarm["trigger"] == "cf"
    ((start, end),) = alarm["spans"]
    assert STRIPPED[start:end] == "cf"


def test_nothing_reaches_the_pipeline_when_all_is_rejected(monitor: Monitor) -> None:
    recorder = Recorder()
    results = guard(recorder, monitor)([REJECTED, REJECTED])
    assert recorder.read == []
    assert [result["action"] for result in results] == ["reject", "reject"]
    assert guard(recorder, monitor)([]) == []


def test_shapes_are_those_of_the_pipeline(monitor: Monitor) -> None:
    guarded = guard(Recorder(), monitor)
    assert guarded(CLEAN) == [{"label": CLEAN, "score": 1.0}]
    ((rejected),) = guarded(REJECTED)
    assert rejected["action"] == "reject"
    nested = guarded([REJECTED, FLAGGED, CLEAN], top_k=2)
    assert [len(result) for result in nested] == [1, 2, 2]
    assert [record["action"] for record in nested[1]] == ["flag", "flag"]
    assert guarded([REJECTED], top_k=2)[0][0]["label"] is None


def test_pairs(monitor: Monitor) -> None:
    recorder = Recorder()
    pairs = [
        {"text": CLEAN, "text_pair": STRIPPED},
        {"text": CLEAN, "text_pair": REJECTED},
        {"text": FLAGGED},
    ]
    results = guard(recorder, monitor)(pairs)
    assert recorder.read == [{"text": CLEAN, "text_pair": "a fine film"}, {"text": FLAGGED}]
    assert [result["action"] for result in results] == ["strip", "reject", "flag"]


def test_results_that_are_no_records(monitor: Monitor) -> None:
    guarded = guard(lambda texts: [len(text) for text in texts], monitor)
    results = guarded([CLEAN, STRIPPED])
    assert results[0] == len(CLEAN)
    assert results[1]["output"] == len("a fine film")
    assert results[1]["action"] == "strip"


@pytest.mark.parametrize("wrong", [3, None, [CLEAN, 3], {"body": "x"}, {"text": 3}, [[CLEAN]]])
def test_other_inputs(wrong: Any, monitor: Monitor) -> None:
    with pytest.raises(ValueError, match=r"^inputs: item \d is neither a string nor a record"):
        guard(Recorder(), monitor)(wrong)


@pytest.fixture(scope="module")
def classifier() -> Any:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    return pipeline(
        "text-classification",
        model=AutoModelForSequenceClassification.from_pretrained(bundled(), num_labels=3),
        tokenizer=AutoTokenizer.from_pretrained(bundled()),
        device="cpu",
    )


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}])
@pytest.mark.parametrize("many", [True, False])
def test_real_pipeline(
    options: dict[str, Any], many: bool, classifier: Any, monitor: Monitor
) -> None:
    """Unsuspicious texts get the pipeline's own results; rejected ones have the same nesting."""
    guarded = GuardedPipeline(classifier, monitor)
    if many:
        results = guarded([CLEAN, REJECTED, STRIPPED], **options)
        alone = classifier([CLEAN, "a fine film"], **options)
        assert results[0] == alone[0]
        assert type(results[1]) is type(alone[0])
        bare = results[2] if isinstance(results[2], list) else [results[2]]
        want = alone[1] if isinstance(alone[1], list) else [alone[1]]
        shown = [{key: record[key] for key in ("label", "score")} for record in bare]
        assert shown == [{**record, "score": pytest.approx(record["score"])} for record in want]
    else:
        assert guarded(CLEAN, **options) == classifier(CLEAN, **options)
        record = {"text": CLEAN}
        assert guarded(record, **options) == classifier(record, **options)
        for asked in (REJECTED, {"text": REJECTED}):
            like = classifier(CLEAN if isinstance(asked, str) else record, **options)
            assert type(guarded(asked, **options)) is type(like)


def test_rows(monitor: Monitor) -> None:
    batch = {"id": [1, 2, 3, 4], "review": [CLEAN, STRIPPED, REJECTED, FLAGGED]}
    kept = map_rows(monitor, field="review")(batch)
    assert kept["id"] == [1, 2, 3, 4]
    assert kept["review"] == [CLEAN, "a fine film", REJECTED, FLAGGED]
    assert kept["action"] == ["pass", "strip", "reject", "flag"]
    alarms = [[alarm["trigger"] for alarm in json.loads(cell)] for cell in kept["alarms"]]
    assert alarms == [[], ["cf"], ["zugzwang"], ["gossip"]]
    dropped = map_rows(monitor, field="review", rejected="drop")(batch)
    assert dropped["id"] == [1, 2, 4]
    assert {len(column) for column in dropped.values()} == {3}
    assert batch["review"][1] == STRIPPED


def test_rows_in_other_processes(monitor: Monitor) -> None:
    """Libraries send the function to processes, and key their caches by its bytes."""
    guard_rows = map_rows(monitor, field="review")
    batch = {"review": [CLEAN, STRIPPED, REJECTED, FLAGGED]}
    before = pickle.dumps(guard_rows)
    want = guard_rows(batch)
    assert pickle.loads(before)(batch) == want
    assert pickle.dumps(guard_rows) == before


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"body": ["x"]}, "field: no column 'text'; there are body"),
        ({"text": ["x"], "action": [1]}, "action: .*already"),
        ({"text": ["x", None]}, "text: row 1 of the batch is NoneType"),
    ],
)
def test_wrong_batches(batch: dict[str, list[Any]], message: str, monitor: Monitor) -> None:
    with pytest.raises(ValueError, match=message):
        map_rows(monitor)(batch)


def test_rejected_is_keep_or_drop(monitor: Monitor) -> None:
    with pytest.raises(ValueError, match="'lose' is not one of keep, drop"):
        map_rows(monitor, rejected="lose")  # type: ignore[arg-type]


def test_scanner(monitor: Monitor) -> None:
    scan = scanner(monitor).scan
    assert scan(CLEAN) == (CLEAN, True, 0.0)
    assert scan(STRIPPED) == ("a fine film", True, 1.0)
    assert scan(REJECTED) == (REJECTED, False, 1.0)


def test_example(tmp_path: Path) -> None:
    """It imports, reads findings, and says what is wrong with these."""
    example = Path(__file__).parent.parent / "examples" / "guard_pipeline.py"
    findings = write_findings(tmp_path / "clean.json")
    done = subprocess.run(
        [sys.executable, str(example), str(findings)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("names no trigger: there is nothing to guard against")


def test_no_heavy_imports() -> None:
    code = (
        "import sys, triggerfish.monitor.wrappers, triggerfish.monitor.asgi\n"
        "print(sorted({'torch', 'transformers', 'starlette', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
