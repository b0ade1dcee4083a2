"""From schema 1 of scan.json to schema 2: everything is kept, and old files are named as such."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triggerfish import cli
from triggerfish.convert import convert
from triggerfish.records import ScanResult

FILE = Path(__file__).parent / "data" / "scan-schema-1.json"
OLD = FILE.read_text(encoding="utf-8")
"""A scan of a tiny gpt2 with a trigger that is a character, as it was written in schema 1."""


def leaves(value: object) -> list[str]:
    """All that a JSON document says besides its keys, in a fixed order."""
    if isinstance(value, dict):
        return sorted(x for item in value.values() for x in leaves(item))
    if isinstance(value, list):
        return sorted(x for item in value for x in leaves(item))
    return [repr(value)]


def test_everything_is_kept_under_its_new_name() -> None:
    old, new = json.loads(OLD), json.loads(convert(OLD).to_json())
    settings = old["settings"] | {"method": "screening"}
    assert leaves(old | {"schema": 2, "settings": settings}) == leaves(new)
    (before,), (after,) = old["findings"], new["findings"]
    assert before["statistics"]["depth"] == after["statistics"]["collapse"]
    assert before["evidence"]["enough"] == after["evidence"]["sufficient_subsets"]
    assert before["cores"] == after["sufficient_subsets"]
    assert old["landscape"] == new["manhattan"]
    assert old["settings"]["second_keep"] == new["settings"]["second_candidates"]
    said = OLD + json.dumps(new)
    for key in ("typed_depth", "landscape", "min_heads", "beside_depth"):
        assert said.count(f'"{key}"') == 1


def test_methods_have_their_new_names_and_keep_settings_of_their_own() -> None:
    old = json.loads(OLD)
    old["settings"] = {"method": "contrastive", "words": 3, "min_depth": 0.8, "together": 0.4}
    found = convert(json.dumps(old)).settings
    assert found == {"method": "inversion", "words": 3, "min_effect": 0.8, "together": 0.4}
    old["settings"] = {"method": "hybrid", "search": {"together": {"min_depth": 0.5}}}
    found = convert(json.dumps(old)).settings
    assert found == {"method": "hybrid", "search": {"pairs": {"min_effect": 0.5}}}


def test_a_file_that_does_not_say_when_it_was_made() -> None:
    old = json.loads(OLD)
    del old["provenance"]
    assert convert(json.dumps(old)).provenance.started == "unknown"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "schema: expected 1"),
        ('{"schema": 2}', "schema: expected 1 in the file to convert, got 2"),
        ('{"schema": 1}', "not a scan.json of schema 1"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(text)


def test_the_command_converts_and_readers_say_how(tmp_path: Path) -> None:
    out = tmp_path / "new.json"
    assert CliRunner().invoke(cli.app, ["convert", str(FILE), "--out", str(out)]).exit_code == 0
    assert ScanResult.load(out) == convert(OLD)
    with pytest.raises(ValueError, match=r"schema: expected 2, got 1.*triggerfish convert"):
        ScanResult.load(FILE)
    with pytest.raises(ValueError, match="schema: expected 1 in the file to convert, got 2"):
        convert(out.read_text(encoding="utf-8"))
