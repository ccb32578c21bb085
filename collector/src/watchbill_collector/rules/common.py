"""What loaded rules have in common: parts of expressions that are worked out once for all of them.

A part may be shared by two rules if nothing that the rules themselves write is read in it: what they record, and
ALERTS, changes between one rule and the next.
"""

from collections import Counter

from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import MatchOp
from watchbill_collector.promql import ast
from watchbill_collector.promql.nodes import Node
from watchbill_collector.promql.plan import Made
from watchbill_collector.rules.model import RecordingRule, RuleSet
from watchbill_collector.rules.needs import children, every

Shared = frozenset[Node]
_WRITTEN = frozenset(["ALERTS", "ALERTS_FOR_STATE"])


def nodes_of(rules: RuleSet, made: Made) -> Made:
    """The nodes that the rules have, without those of rules that are gone."""
    parts = {ast.bare(part) for rule in rules.rules for part in every(rule.plan.expr)}
    return {part: made[part] for part in parts if part in made}


def shared_nodes(rules: RuleSet) -> Shared:
    """The nodes that more than one expression has, and that no rule can change."""
    written = _WRITTEN.union(rule.name for rule in rules.rules if isinstance(rule, RecordingRule))
    uses: Counter[ast.Expr] = Counter(ast.bare(rule.plan.expr) for rule in rules.rules)
    # Each expression once, however many rules have it: what is inside a shared one need not be kept beside it.
    for part in {ast.bare(part) for rule in rules.rules for part in every(rule.plan.expr)}:
        uses.update(map(ast.bare, children(part)))
    return frozenset(
        rules.made[part]
        for part, count in uses.items()
        if count > 1 and part in rules.made and part.kind is ast.Kind.VECTOR and not _reads(part, written)
    )


def _reads(expr: ast.Expr, names: frozenset[str]) -> bool:
    """Whether any selector may read one of these metrics."""
    return any(
        not any(
            matcher.name == METRIC_NAME and matcher.op is MatchOp.EQUAL and matcher.value not in names
            for matcher in part.matchers
        )
        for part in every(expr)
        if isinstance(part, ast.Selector)
    )
