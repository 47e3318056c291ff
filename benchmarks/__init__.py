"""The benchmark: this library and its peers on the same work, in the same run.

`rows.py` says who competes at what, and what is claimed; the contestants stand beside their rivals
in `on_postgres.py`, `on_mariadb.py`, `on_sqlite.py` and `on_the_pool.py`. `client.py` measures a
row, in a process of its own; `judging.py` makes figures and verdicts of what it measured, and
`page.py` and `charts.py` make `docs/benchmarks.md` of those. `python -m benchmarks` does it all.
"""
