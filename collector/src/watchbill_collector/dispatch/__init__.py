"""From alerts to notices: routes, groups, silences, maintenance windows, and the outbox that loses nothing.

`plan.py` decides and knows no clock; `dispatcher.py` takes a snapshot of the alerts, writes what was planned
and lets one task a channel send it.
"""
