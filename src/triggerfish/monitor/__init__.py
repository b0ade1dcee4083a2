"""The monitor: guards every model derived from a scanned PLM by looking for the triggers that the
scan found. It needs neither torch nor transformers."""

from triggerfish.monitor.monitor import Confirm, Monitor
from triggerfish.monitor.settings import MonitorSettings

__all__ = ["Confirm", "Monitor", "MonitorSettings"]
