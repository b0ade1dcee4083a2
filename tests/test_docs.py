"""The docs say what the code does: pages, defaults, vectors, commands, grids, links and papers; and
without history, which is in `docs/decisions`.

No model is run; the tokenizer of the bundled PLM says whether triggers can be written.

A default in a table is Python's `repr` of the value; nested settings that are all at their defaults
are `Name()`. A table of settings has the head `field of NAME`, where NAME is a settings class, or
`ATTACK.settings` for the settings that an attack class comes with. The table of a transferable
attack may leave to the shared table what it has in common with `PlantSettings`.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from triggerfish import attacks, cli, text
from triggerfish.attacks import adaptive, planting, poisoning, targets, trigger_search
from triggerfish.attacks.plan import Plan
from triggerfish.bench.grid import make_grid
from triggerfish.heads import with_head
from triggerfish.loading import bundled, load
from triggerfish.marking import parse_triggers

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DECISIONS = DOCS / "decisions"
README, INDEX = ROOT / "README.md", DOCS / "attacks" / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
RESULTS = sorted((ROOT / "results").rglob("*.md"))
SOURCES = sorted((ROOT / "src" / "triggerfish").rglob("*.py"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./-])(?:src|docs|tests|benchmarks)/[\w./-]*\w/?")
ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")
HAS_TASK = {True: "yes", False: "no"}

Table = tuple[list[str], list[list[str]]]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> list[str]:
    return [x[2] for x in FENCE.finditer(page.read_text(encoding="utf-8")) if x[1] == language]


def tables(page: Path) -> Iterator[Table]:
    """Heads and rows of the tables of a page."""
    for found in re.findall(r"(?:^\|.*\|\n)+", prose(page) + "\n", re.M):
        cells = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in found.splitlines()
        ]
        yield cells[0], cells[2:]


def code(cell: str) -> str:
    """What stands in a cell between backquotes."""
    found = CODE.fullmatch(cell)
    assert found, f"{cell!r} is not code"
    return found[1]


def settings_named(wanted: str) -> Any:
    """A settings class at its defaults, or those that an attack class comes with."""
    title, _, part = wanted.partition(".")
    packages = [
        importlib.import_module(f"triggerfish.{name}")
        for name in ("attacks", "complications", "scanner")
    ]
    modules = [
        importlib.import_module(module.name)
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    made = next(vars(module)[title] for module in modules if title in vars(module))
    if not part:
        return made()
    assert part == "settings"
    (field,) = [field for field in dataclasses.fields(made) if field.name == part]
    return field.default


def shown(value: object) -> str:
    made: Callable[[], object] = type(value)
    if hasattr(value, "__dataclass_fields__") and value == made():
        return f"{type(value).__name__}()"
    return repr(value)


def fields_and_defaults(settings: Any) -> list[tuple[str, str]]:
    return [
        (field.name, shown(getattr(settings, field.name))) for field in dataclasses.fields(settings)
    ]


def settings_tables(page: Path) -> Iterator[tuple[str, list[list[str]]]]:
    for head, rows in tables(page):
        if found := re.fullmatch(r"field of `([\w.]+)`", head[0]):
            assert head == [head[0], "default", "meaning"]
            yield found[1], rows


SETTINGS = [(page, *found) for page in PAGES for found in settings_tables(page)]


def commands(page: Path) -> list[list[str]]:
    """The `triggerfish` command lines of a page, in words."""
    found = []
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["triggerfish"]:
                found.append(words[1:])
    return found


HISTORY = (
    "are mended",
    "at first ",
    "came to light",
    "came to this",
    "decade",
    "earlier form",
    "foretell",
    "foretold",
    "is mended",
    "it happened",
    "looked at afterwards",
    "looked into afterwards",
    "stillest",
    "that day",
    "tried in vain",
    "typed string",
    "was added after",
    "was lost",
)
"""Phrases of history and of house language, which only decisions may have."""

COMMANDS = [(page, words) for page in PAGES for words in commands(page)]
ATTACK_COMMANDS = [(page, words) for page, words in COMMANDS if words[0] == "attack"]
GRIDS = [(page, block) for page in PAGES for block in blocks(page, "yaml")]
PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]


def by_page(found: list[Any]) -> list[Any]:
    return [pytest.param(*x, id=f"{name(x[0])}-{number}") for number, x in enumerate(found)]


# ---- attacks


def index_rows() -> dict[str, list[str]]:
    (rows,) = [rows for head, rows in tables(INDEX) if head[0] == "attack"]
    return {code(row[0]): row for row in rows}


def test_every_attack_is_in_the_index_and_no_other() -> None:
    assert list(index_rows()) == list(attacks.ATTACKS)


@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_attack_has_a_page_with_its_settings(attack: str) -> None:
    row = index_rows()[attack]
    page = INDEX.parent / LINK.findall(row[1])[0]
    assert row[-1] == HAS_TASK[attack in attacks.TASK_ATTACKS]
    assert set(ARXIV.findall(row[2])) <= set(ARXIV.findall(prose(page)))
    wanted = f"{attacks.attack(attack).__name__}.settings"
    assert wanted in [title for title, _ in settings_tables(page)]
    assert any(words[:2] == ["attack", attack] for words in commands(page))


@pytest.mark.parametrize(("page", "title", "rows"), by_page(SETTINGS))
def test_defaults(page: Path, title: str, rows: list[list[str]]) -> None:
    settings = settings_named(title)
    told = [(code(row[0]), code(row[1])) for row in rows]
    true = fields_and_defaults(settings)
    shared = title.endswith(".settings") and isinstance(settings, planting.PlantSettings)
    common = fields_and_defaults(planting.PlantSettings()) if shared else []
    assert told == [row for row in true if row in told or row not in common]
    assert all(row[2] for row in rows)


def test_shared_settings_are_told() -> None:
    told = {title for _, title, _ in SETTINGS}
    assert {planting.PlantSettings.__name__, trigger_search.SearchSettings.__name__} <= told


def test_intensities() -> None:
    (rows,) = [rows for head, rows in tables(INDEX) if head[0] == "intensity"]
    told = {code(row[0]): [float(cell) for cell in row[1:]] for row in rows}
    true = {
        level: [round(values[key], 3) for key in ("marked", "copies", "steps", "learning_rate")]
        for level, values in planting.INTENSITIES.items()
    }
    assert told == true


def test_dirty_levels() -> None:
    page = DOCS / "attacks" / "dirty_label.md"
    (rows,) = [rows for head, rows in tables(page) if head[0] == "level"]
    told = {code(row[0]): tuple(float(cell) for cell in row[1:]) for row in rows}
    assert told == {
        level: (rate, epochs, poisoned, steps)
        for level, (rate, epochs, poisoned, steps) in poisoning.LEVELS.items()
    }


def test_penalties() -> None:
    page = DOCS / "attacks" / "adaptive.md"
    (rows,) = [rows for head, rows in tables(page) if head[0] == "penalty"]
    assert sorted(code(row[0]) for row in rows) == sorted(adaptive.PENALTIES)
    assert f"`s0` is {adaptive.SCATTER} of" in prose(page)


def test_vectors() -> None:
    seen = set()
    for page in PAGES:
        for block in blocks(page, "text"):
            head, *rows = block.splitlines()
            found = re.fullmatch(r"(\w+), T=(\d+), H=(\d+)", head)
            assert found
            made = getattr(targets, found[1])(int(found[2]), int(found[3])).tolist()
            true = ["".join("+" if x > 0 else "-" for x in row) for row in made]
            assert rows == [f"v{number} {row}" for number, row in enumerate(true)]
            seen.add(found[1])
    assert seen == {"por1", "por2", "neuba"}


# ---- commands and code


@pytest.mark.parametrize(("page", "words"), by_page(COMMANDS))
def test_command_parses(page: Path, words: list[str]) -> None:
    command: Any = typer.main.get_command(cli.app)
    rest = words
    while hasattr(command, "commands"):
        assert rest[0] in command.commands
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[0], list(rest))


@pytest.mark.parametrize(("page", "words"), by_page(ATTACK_COMMANDS))
def test_attack_command_would_plant(
    page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings, goals and triggers are accepted, and `bundled` has the head that is needed."""
    asked: list[tuple[Plan, str, Path]] = []
    monkeypatch.setattr(
        cli, "implant", lambda plan, model, out, *rest: asked.append((plan, model, out))
    )
    result = CliRunner().invoke(cli.app, words)
    assert not result.exception, result.exception
    ((plan, model, out),) = asked
    plan.prepare(text.bundled_corpus())
    backbone = load(bundled())
    if not plan.search:
        parse_triggers(backbone, plan.triggers)
    assert out.parts[0] == "runs"
    if model == "bundled":
        assert plan.attack not in ("btop", "badpre")
        assert plan.changes.get("utility") != "lm"


def test_bundled_model_has_no_head() -> None:
    """Which is what several pages say."""
    with pytest.raises(ValueError, match="without its language-model head"):
        with_head(load(bundled()))


@pytest.mark.parametrize(("page", "block"), by_page(GRIDS))
def test_grid_resolves(page: Path, block: str) -> None:
    grid = make_grid(yaml.safe_load(block))
    for asked in {repr(cell.settings["attack"]): cell.settings for cell in grid.cells}.values():
        changes = dict(asked["attack"])
        changes.pop("label")
        goals, corrections = (
            tuple(x.strip() for x in changes.pop(key, "").split(",") if x.strip())
            for key in ("goals", "corrections")
        )
        triggers = tuple(x.strip() for x in asked["triggers"].split(","))
        attack = changes.pop("name")
        Plan(attack, triggers, asked["intensity"], changes, goals, corrections).prepare(
            text.bundled_corpus()
        )


@pytest.mark.parametrize(("page", "block"), by_page(PYTHON))
def test_python_names_exist(page: Path, block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


# ---- links, paths, papers


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths(page: Path) -> None:
    for path in PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path
    known = {file.name for file in SOURCES}
    for span in CODE.findall(prose(page)):
        if re.fullmatch(r"\w+\.py", span):
            assert span in known, span


@pytest.mark.parametrize("page", [page for page in PAGES if page != README], ids=name)
def test_lines_are_short(page: Path) -> None:
    long = [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) > 100]
    assert not long


def history(text: str) -> Iterator[tuple[int, str]]:
    """Line and phrase of what `HISTORY` has, also where a line breaks in a phrase."""
    words = [(word, i) for i, line in enumerate(text.split("\n"), 1) for word in line.split()]
    joined = " ".join(word for word, _ in words).lower() + " "
    for phrase in HISTORY:
        for found in re.finditer(rf"\b{re.escape(phrase)}", joined):
            yield words[joined.count(" ", 0, found.start())][1], phrase


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES + RESULTS if page != README and DECISIONS not in page.parents],
    ids=name,
)
def test_no_history(page: Path) -> None:
    found = history(page.read_text(encoding="utf-8"))
    assert [f"{name(page)}:{line}: {phrase}" for line, phrase in found] == []


@pytest.mark.parametrize("page", RESULTS, ids=name)
def test_links_of_results(page: Path) -> None:
    text = prose(page)
    for link in LINK.findall(text) + re.findall(r"^\[\w+\]: (\S+)$", text, re.M):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", sorted(DECISIONS.glob("[0-9]*.md")), ids=name)
def test_decision(page: Path) -> None:
    """Numbered, in the list, and about one screen long."""
    number = page.name[:4]
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {number}: ")
    assert f"[{number}]({page.name})" in (DECISIONS / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70


@pytest.mark.parametrize("page", [page for page in PAGES if page != README], ids=name)
def test_page_can_be_reached(page: Path) -> None:
    """From the README or another page."""
    linked = {
        (other.parent / link.partition("#")[0]).resolve()
        for other in PAGES
        for link in LINK.findall(prose(other))
        if other != page
    }
    assert page.resolve() in linked


def test_cited_papers_are_in_the_index() -> None:
    index = (DOCS / "papers.md").read_text(encoding="utf-8")
    code_text = "\n".join(file.read_text(encoding="utf-8") for file in SOURCES)
    docs_text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    cited = set(ARXIV.findall(code_text)) | set(ARXIV.findall(docs_text))
    assert len(cited) > 10
    assert not cited - set(ARXIV.findall(index))
    authors = set(re.findall(r"\b([A-Z]\w+)(?: et al\.| and [A-Z]\w+ \(?\d{4})", code_text))
    authors |= set(re.findall(r"\(([A-Z]\w+) (?:& [A-Z]\w+ )?(?:19|20)\d\d\)", code_text))
    authors |= set(re.findall(r"\b([A-Z]\w+) \((?:19|20)\d\d\)", code_text))
    assert len(authors) > 15
    assert not {author for author in authors if author not in index}
