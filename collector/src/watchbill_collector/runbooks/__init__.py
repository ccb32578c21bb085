"""Runbooks: what they say, whether it can be done, and what a run does next. Pure: no clock, no I/O."""
