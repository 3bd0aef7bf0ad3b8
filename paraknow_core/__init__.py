"""Headless core of the ParaKnow workbench: parametric knowledge transfer between language models.

Read `pipeline.py` first: it lists the stages in order.
"""

__version__ = "0.1.0"
