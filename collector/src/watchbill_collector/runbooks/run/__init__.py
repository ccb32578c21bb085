"""Runs: what happened is a list of rows; what a run is follows from them alone, and so does what comes next.

    rows.py      what a row says                 fold.py     rows -> `Run`
    flow.py      the steps in their order        decide.py   (`Run`, the world, now) -> rows, then effects
    heard.py     what hosts say -> rows          verbs.py    what people do -> rows, or why not
    restraint.py which runs may go on

Nothing here reads a clock or does anything. Whoever drives a run writes the rows that were decided, waits until they
are on the disk, and only then does what stands beside them. Kill him anywhere: folding the rows again gives the same
run, and the hosts are asked what became of what was sent.
"""
