"""Guards that look at what a model does with a text: for triggers that no scan has found, and the
published defences that the monitor is compared with.

    guard = Guard.fit(LeaveOneOut(backbone, some_clean_texts), other_clean_texts, frr=0.01)
    guard.flags(texts)

Every detector is made from a model and a few clean texts, and scores texts, higher for more
suspicious; `Guard.fit` sets its threshold for a false-rejection rate. They need torch and forward
passes. The monitor needs neither, which is why it lives in another package.
"""

from triggerfish.guards.behaviour import BehaviourSettings, LeaveOneOut, WordCheck
from triggerfish.guards.onion import Onion, OnionSettings
from triggerfish.guards.rap import Rap, RapSettings
from triggerfish.guards.strip import Strip, StripSettings
from triggerfish.guards.threshold import Detector, Guard, Threshold, conformal
from triggerfish.guards.vectors import PUBLISHED, VectorMonitor, target_vectors

__all__ = [
    "PUBLISHED",
    "BehaviourSettings",
    "Detector",
    "Guard",
    "LeaveOneOut",
    "Onion",
    "OnionSettings",
    "Rap",
    "RapSettings",
    "Strip",
    "StripSettings",
    "Threshold",
    "VectorMonitor",
    "WordCheck",
    "conformal",
    "target_vectors",
]
