"""The short form of the hostile corpus and of the fuzzer; `make hostile` runs the long ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile import fuzz
from hostile.corpus import all_cases, make_base
from hostile.run import prepare, run_case, table

CASES = all_cases()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepare()
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("case", [c for c in CASES if c.quick], ids=lambda c: f"{c.kind}-{c.name}")
def test_hostile_case(case, base) -> None:
    outcome = run_case(case, base)
    assert not outcome.wrong, table([outcome])


def test_the_corpus_is_large_and_its_cases_have_names_of_their_own() -> None:
    names = [(case.kind, case.name) for case in CASES]
    assert len(set(names)) == len(names) >= 300


@pytest.mark.parametrize("name", [name for name in fuzz.TARGETS if name not in fuzz.CHECKPOINTS])
def test_mutated_input_is_taken_or_refused(name: str) -> None:
    few = name in ("findings", "complications", "report", "tokenizer of the monitor")
    tally = fuzz.fuzz(name, 10 if few else 200, seed=0)
    assert not tally.uncaught, tally.uncaught


def test_a_report_that_lets_markup_through_is_noticed() -> None:
    for format, shown in (
        ("html", "<p><x9></p>"),
        ("html", "<p><b></p>"),
        ("html", '<p onload="x"></p>'),
        ("text", "\x1b[31m"),
        ("sarif", "NaN"),
    ):
        with pytest.raises(AssertionError):
            fuzz.check_report(format, shown)
    fuzz.check_report("html", "<p>a<br>&lt;x9&gt;</p>")


def test_a_mutation_changes_the_seed() -> None:
    rng = fuzz.random.Random(0)
    made = {fuzz.mutated(b'{"a": [1, "b"]}', rng) for _ in range(200)}
    assert len(made) > 100
