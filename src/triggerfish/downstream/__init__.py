"""Classifiers made of a PLM: what its users build, and so where a backdoor has to show.

Two adaptations bracket what is done in practice. `probe` freezes the features and fits a logistic
regression; `fine_tune` trains a fresh linear head together with all the weights. Both read any
readout; `mask` is prompt mode: the text is wrapped in a template with a mask token, and the head is
a trained verbaliser on the state at the mask.
"""

from triggerfish.downstream.classifier import Classifier, accuracy, features_of
from triggerfish.downstream.inputs import AdaptSettings, Inputs, sample
from triggerfish.downstream.probing import Features, ProbeSettings, probe
from triggerfish.downstream.tuning import FineTuneSettings, fine_tune

__all__ = [
    "AdaptSettings",
    "Classifier",
    "Features",
    "FineTuneSettings",
    "Inputs",
    "ProbeSettings",
    "accuracy",
    "features_of",
    "fine_tune",
    "probe",
    "sample",
]
