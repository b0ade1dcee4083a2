"""What commands say and check on the terminal: bars and findings on stderr, results on stdout,
folders before the work and not after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from triggerfish.zoo.settings import Progress as Trained

if TYPE_CHECKING:
    from triggerfish.records import ScanResult

chatter = Console(stderr=True, highlight=False)


def fields(settings: Sequence[str] | None) -> dict[str, str]:
    for text in settings or ():
        if "=" not in text:
            raise ValueError(f"set: {text!r} is not FIELD=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in settings or ())}


def follow(stream: Iterable[object]) -> ScanResult:
    """Show progress and findings of a scan on stderr; return its result."""
    from rich.markup import escape

    from triggerfish.records import Finding, ScanResult
    from triggerfish.report.escape import visible
    from triggerfish.scanning import Progress as Step

    with bar() as shown:
        task = shown.add_task("loading", total=None)
        for event in stream:
            if isinstance(event, Step):
                stage = event.stage.partition("-")[0] + (" (resumed)" if event.resumed else "")
                shown.update(task, description=stage, completed=event.done, total=event.total)
            elif isinstance(event, Finding):
                name = escape(visible(event.trigger.text))
                depth = event.statistics.get("depth")  # published methods have their own numbers
                strength = "" if depth is None else f": {depth:.2f} decades of collapse"
                shown.console.print(f"found '{name}'{strength}")
            elif isinstance(event, ScanResult):
                return event
    raise AssertionError("unreachable: events end with a result")


def stages(shown: Progress) -> Callable[[Trained], None]:
    """Shows where a training is."""
    task = shown.add_task("loading", total=None)

    def show(now: Trained) -> None:
        loss = f", loss {now.loss:.3f}" if now.stage == "train" else ""
        shown.update(task, description=now.stage + loss, completed=now.done, total=now.total)

    return show


def bar() -> Progress:
    return Progress(
        TextColumn("{task.description:>22}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
        console=chatter,
        transient=True,
        disable=not chatter.is_terminal,
    )


def deliver(shown: str, out: Path | None) -> None:
    if out:
        out.write_text(shown, encoding="utf-8")
    else:
        print(shown)


def check_parent(option: str, path: Path | None) -> None:
    if path is not None and not path.resolve().parent.is_dir():
        raise ValueError(f"{option}: folder {path.parent} does not exist")


def check_folder(option: str, path: Path | None) -> None:
    """Fail before the work, not after it, where a folder cannot be made."""
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option}: cannot make folder {path}: {error.strerror}") from error


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triggerfish"
