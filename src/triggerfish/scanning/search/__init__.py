"""Search where enumeration ends: triggers of several words that work only together.

mining.py   free vectors find the points that texts can be sent to
relax.py    mixtures of tokens, pulled towards such a point, become tokens
naming.py   of those tokens the ones that are needed, as words
phrases.py  the three in a row, on one model
"""
