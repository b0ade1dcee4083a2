"""Grids without running them: what they expand to, their errors, and how values are shown."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import bench_toy
from bench_toy import TOY
from triggerfish.bench import Axis, Plan, Progress, Stage, watch
from triggerfish.bench.entries import pooled
from triggerfish.bench.grid import make_grid, read_grid
from triggerfish.bench.plans import load


def test_product_exclude_and_include() -> None:
    grid = make_grid(
        TOY
        | {
            "axes": {"base": [1, 2], "seed": [0, 1, 2], "recipe": {"code": "por2"}},
            "exclude": [{"base": 2, "seed": [1, 2], "recipe": {"code": "por2"}}],
            "include": [
                {"base": 7, "seed": [5, 6]},
                {"base": 8, "recipe": {"steps": 9}, "seed": 0},
            ],
        }
    )
    found = [(c.settings["base"], c.settings["seed"]) for c in grid.cells]
    assert found == [(1, 0), (1, 1), (1, 2), (2, 0), (7, 5), (7, 6), (8, 0)]
    assert grid.cells[0].settings["recipe"] == {"code": "por2", "steps": 0}
    assert grid.cells[-1].settings["recipe"] == {"code": "por1", "steps": 9}
    assert list(grid.cells[0].settings) == ["base", "model", "factor", "recipe", "mode", "seed"]


def test_included_cells_alone_make_a_grid() -> None:
    assert len(make_grid(TOY | {"include": [{"base": [1, 2]}]}).cells) == 2


def test_hashes_cover_settings_versions_threads_and_products() -> None:
    def last(**fields: Any) -> str:
        return make_grid(TOY | {"axes": {"base": 1}} | fields).cells[0].hash

    names = {
        last(),
        last(threads=2),
        last(axes={"base": 2}),
        last(axes={"base": 1, "seed": 1}),
        last(axes={"base": 1, "recipe": {"steps": 1}}),
    }
    assert len(names) == 5
    one, two = make_grid(TOY | {"axes": {"base": 1, "seed": [0, 1]}}).cells
    assert one.stages["scaled"] == two.stages["scaled"]
    assert one.hash == last(), "the rest of the grid does not matter"
    rates = [{"stages": {"measure": "threads"}, "axes": {"rate": rate}} for rate in (1, 1.0)]
    assert last(**rates[0]) == last(**rates[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axis": {}}, "grid: unknown name 'axis'.*did you mean 'axes'"),
        ({"name": 3}, "name: expected a text, got 3"),
        ({"plan": "retdeam"}, "plan: unknown name 'retdeam'.*did you mean 'redteam'"),
        ({"plan": "no_such_module:PLAN"}, "plan: module 'no_such_module' cannot be imported"),
        ({"plan": "bench_toy:AXES"}, r"plan: .*expected a triggerfish\.bench\.Plan"),
        ({"stages": {"measure": "scroe"}}, "stages.measure: .*did you mean 'score'"),
        ({"stages": {"measure": "scaled"}}, "stages.measure: unknown name 'scaled'"),
        ({"stages": {}}, "stages.measure: missing; expected one of score, threads"),
        ({"threads": "2"}, "threads: expected a number of CPU threads of at least 1, got '2'"),
        ({"threads": 0}, "threads: "),
        ({"axes": {}}, r"axes.base: missing; expected int \(the number to start from\)"),
        ({"axes": {"bse": 1}}, "axes: unknown name 'bse'.*did you mean 'base'"),
        ({"axes": {"base": 1, "rate": 1.0}}, "axes.rate: no stage that 'score' needs"),
        ({"axes": {"base": "1"}}, r"axes.base: expected int .*, got '1' \(str\)"),
        ({"axes": {"base": True}}, r"axes.base: expected int .*, got True \(bool; quote it"),
        ({"axes": {"base": []}}, "axes.base: expected at least one value"),
        ({"axes": {"base": [1, 2.5]}}, r"axes.base\[1\]: expected int"),
        ({"axes": {"base": 1, "factor": float("nan")}}, "axes.factor: expected int or float"),
        ({"axes": {"base": 1, "mode": "god"}}, "axes.mode: unknown name 'god'.*mean 'good'"),
        ({"axes": {"base": 1, "recipe": {"stps": 1}}}, "axes.recipe: .*did you mean 'steps'"),
        ({"axes": {"base": 1, "recipe": {"steps": "x"}}}, "axes.recipe.steps: expected int"),
        ({"axes": {"base": [1, 1]}}, "axes: expected distinct cells.*twice: base=1"),
        ({"include": [{"base": 1}]}, "twice"),
        ({"include": [{"bas": 1}]}, r"include\[0\]: unknown name 'bas'"),
        ({"exclude": [{"base": 2}]}, r"exclude\[0\]: .*no cell has these"),
        ({"exclude": [{"base": 1}]}, "axes: expected at least one cell"),
        ({"exclude": {"base": 1}}, "exclude: expected a list"),
        ({"exclude": [{}]}, r"exclude\[0\]: expected at least one axis"),
        (
            {"tables": [{"title": "t", "rows": ["bas"], "value": "x"}]},
            r"tables\[0\].rows: .*'base'",
        ),
        ({"tables": [{"title": "t", "rows": ["base"]}]}, r"tables\[0\].value: expected the path"),
        ({"tables": [{"rows": []}]}, r"tables\[0\].title: expected a text"),
        (
            {"tables": [{"title": "t", "rows": ["base"], "value": "x", "format": ".1q"}]},
            r"tables\[0\].format: expected a format of numbers",
        ),
        (
            {"tables": [{"title": "t", "rows": ["base"], "value": "x", "where": {"base": 9}}]},
            r"tables\[0\].where: no cell",
        ),
        (
            {"tables": [{"title": "t", "rows": ["base"], "value": "x", "columns": {"a": "y"}}]},
            r"tables\[0\].value: expected none",
        ),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_grid(TOY | {"axes": {"base": 1}} | fields)


def test_yaml_without_surprises(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    head = "name: a\nplan: bench_toy:PLAN\nstages: {measure: threads}\n"
    file.write_text(head + "axes: {rate: [1e-3, 2.5E+2, 1]}\n")
    assert [cell.settings["rate"] for cell in read_grid(file).cells] == [0.001, 250.0, 1.0]
    file.write_text(head + "axes:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(ValueError, match="line 6: 'seed' comes twice"):
        read_grid(file)
    file.write_text("{")
    with pytest.raises(ValueError, match="is not YAML"):
        read_grid(file)
    with pytest.raises(ValueError, match="does not exist"):
        read_grid(tmp_path / "none.yaml")


def test_a_plan_that_cannot_work_is_refused() -> None:
    def plan(*stages: Stage) -> Plan:
        return Plan(stages, {"seed": Axis((int,))})

    first = Stage("first", ("seed",), (), bench_toy.source)
    for bad, message in [
        ([first, first], "expected a new name"),
        ([Stage("../up", (), (), bench_toy.source)], "expected a new name"),
        ([Stage("second", (), ("first",), bench_toy.source), first], "second.after: unknown"),
        ([Stage("second", ("sed",), (), bench_toy.source)], "second.axes: .*mean 'seed'"),
    ]:
        with pytest.raises(ValueError, match=message):
            plan(*bad)
    assert load("bench_toy:PLAN") is bench_toy.PLAN


@pytest.mark.parametrize(
    ("values", "format", "text"),
    [
        ([{"k": 187, "n": 200}], None, "93.5 % (187/200; 89.1-96.5)"),
        ([{"k": 4, "n": 10}, {"k": 6, "n": 10}], None, "50.0 % (10/20; 27.2-72.8)"),
        ([{"k": 0, "n": 59}], ".2f", "0.00 % (0/59; 0.00-6.06)"),
        ([{"k": 0, "n": 0}], None, "no trials (0/0)"),
        ([0.25], None, "0.25"),
        ([1, 2, 6], ".1f", "3.0 (1.0-6.0)"),
        ([-1.0, 1.0], None, "0 (-1 to 1)"),
        (["clean", "backdoored", "clean"], None, "backdoored (1), clean (2)"),
        (["clean", "clean"], None, "clean"),
        ([True], None, "true"),
    ],
)
def test_pooled_values(values: list[Any], format: str | None, text: str) -> None:
    assert pooled(values, format) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_shows_progress_and_escapes(terminal: bool) -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=terminal, width=120, _environ={})
    with watch(console) as show:
        show(Progress(9, 1, 2, 0, ("score base=[red]1\x1b[2J", "score base=2"), 300.0))
        show(Progress(9, 1, 2, 1, (), 300.0, news="failed: score base=\x1b[2J: [bold]no"))
        show(Progress(9, 1, 3, 1, (), 0.0, news="score base=2: 0.1 s"))
    shown = screen.getvalue()
    assert "\x1b[2J" not in shown
    assert r"failed: score base=\x1b[2J: [bold]no" in shown
    assert ("[5/9] score base=2: 0.1 s" in shown) is not terminal
