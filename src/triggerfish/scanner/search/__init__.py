"""Searches for triggers that cannot be enumerated: several words that act only together.

embedding_ball.py     input embeddings and their norms
soft_prompts.py       free vectors and tokens, inserted into a few texts
objectives.py         objectives of a search
regression.py         effects of words, predicted from their subword tokens
suppressed.py         words that were trained to have no effect, and their interactions
inversion.py          inverted targets: representations that short free vectors can force on texts
hidden_targets.py     test whether an inverted target is evidence of a backdoor
relaxation.py         tokens that lead to a target, found by mixtures of all tokens
genetic.py            token sequences that lead to a target, found by a genetic search
words_from_tokens.py  words that contain the tokens that a sequence needs
phrases.py            all of these in order, on one model
pairs.py              pairs of words anywhere in a text, by group tests
validation.py         hold-out measurement of what a search found
inversion_method.py   the phrase search without screening, as a method of its own
efforts.py            effort levels
"""
