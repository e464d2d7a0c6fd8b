"""Grokking below the critical threshold: teachers, distilled students, joint and continual runs.

The library knows nothing of Snakemake or DVC: it enumerates runs from parameters (`grokdistill.runs`), trains them
(`grokdistill.train`), keeps them in an input-addressed store (`grokdistill.store`) and turns them into tables, figures and
claims. Every step is also a command: `python -m grokdistill --help`.
"""

__version__ = "0.1.0"
