"""Rows with the same labels: made one where they take turns, an error where they meet.

Removing or replacing labels can give two series the same labels. That is fine as long as at no step both have
a sample: they are one series then. Otherwise the query fails, as in Prometheus.
"""

import numpy as np

from watchbill_collector.promql.errors import ExecutionFailed
from watchbill_collector.promql.frames import Grouping, drop_names, equal_rows
from watchbill_collector.promql.values import Vector

SAME_LABELSET = "vector cannot contain metrics with the same labelset"


def merge_equal_rows(vector: Vector, *, strict: bool = False) -> Vector:
    """The vector with equal rows made one where they never meet; where they do: left alone, or `strict`
    fails.
    """
    groups = equal_rows(vector.labels)
    if len(groups) == len(vector):
        return vector
    counts = np.add.reduceat(vector.present[groups.order], groups.starts, axis=0, dtype=np.int64)
    if counts.max(initial=0) > 1:
        if strict:
            raise ExecutionFailed(SAME_LABELSET)
        return vector
    return _merged(vector, groups)


def _merged(vector: Vector, groups: Grouping) -> Vector:
    present = vector.present[groups.order]
    # At most one row of a group is present at a step, so filling the others with nothing and taking the
    # greatest position gives that row.
    positions = np.where(present, np.arange(len(present))[:, None], -1)
    chosen = np.maximum.reduceat(positions, groups.starts, axis=0)
    values = np.take_along_axis(vector.values[groups.order], np.maximum(chosen, 0), axis=0)
    drop = vector.drop_name
    if not isinstance(drop, bool):
        # The first sample of a series decides whether its name goes.
        begins = chosen[np.arange(len(chosen)), (chosen >= 0).argmax(axis=1)]
        drop = drop[groups.order[np.where(begins >= 0, begins, groups.starts)]]
    return Vector(groups.labels, values, chosen >= 0, drop, vector.ordered)


def with_final_labels(vector: Vector) -> Vector:
    """The vector with pending removals of names done; raises ExecutionFailed where that makes two samples
    one.
    """
    labels = drop_names(vector.labels, vector.drop_name)
    final = Vector(labels, vector.values, vector.present, drop_name=False, ordered=vector.ordered)
    return merge_equal_rows(final, strict=True)
