"""Triggerfish audits pre-trained language models for transferable backdoors.

    model = triggerfish.load("path/or/hub-id")
    result = triggerfish.scan(model)
    print(result.verdict, [trigger.text for trigger in result.triggers])

Names are loaded when first used, so that importing the package is cheap.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Alarm": "records",
    "Backbone": "backbone",
    "Checked": "records",
    "Finding": "records",
    "Monitor": "monitor",
    "Readout": "readouts",
    "ScanResult": "records",
    "SearchSettings": "scanner",
    "ScreeningSettings": "scanner",
    "Trigger": "records",
    "bundled": "loading",
    "bundled_corpus": "text",
    "guard": "monitor.wrappers",
    "load": "loading",
    "read_corpus": "text",
    "render": "report",
    "scan": "scanner",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'triggerfish' has no attribute {name!r}")
    return getattr(import_module(f"triggerfish.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
