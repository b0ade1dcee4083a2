"""The monitor: guards every model derived from a scanned PLM by looking for the triggers that the
scan found. It needs neither torch nor transformers."""

from triggerfish.monitor.monitor import Monitor

__all__ = ["Monitor"]
