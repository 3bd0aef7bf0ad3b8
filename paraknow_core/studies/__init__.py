"""Comparing finished runs: which of them are one arm, what separates two arms, and what may be said. Needs no torch.

In the order of the work: `spec` (what a study runs), `same` (when two runs ask the same), `repeats` (which runs are
there already), `arms` (which runs are one arm), `scores` (what two arms score), `differences` (what separates all of
them), `words` and `names` (how all that is said); `lessons/` are studies with a question and an explanation.
"""
