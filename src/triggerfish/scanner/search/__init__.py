"""Search where enumeration ends: triggers of several words that work only together.

space.py       input embeddings and how long they are
prompts.py     free vectors and tokens, written into a few texts
goals.py       what texts shall do with a sequence in them
foretelling.py what words do, as far as it follows from what they are made of
inert.py       words that were taught to do nothing alone, and what they do together
mining.py      short free vectors find the points that texts can be sent to
existence.py   which of these are evidence of a backdoor
relaxing.py    which tokens lead to such a point: mixtures of all
evolving.py    and sequences
naming.py      of the tokens found the ones that are needed, as words
phrases.py     all of that in a row, on one model
together.py    words that may stand anywhere, by group tests
confirming.py  what a search found, on texts that it did not see
contrastive.py the search without a sweep, as a method of its own
efforts.py     how hard to search
"""
