"""The delivery protocol: both ends as state machines. No clock, no I/O; frames in, frames and orders out.

Every record of an agent has a sequence number, contiguous from 1 per spool and stream. The collector
acknowledges a number only after everything up to it is committed, with the digest of the last record, so that
after any crash, restore or rollback both ends can tell whether they mean the same record by the same number.
What cannot be delivered becomes a gap record with a count and a reason, in the place of what it stands for.
Nothing is lost silently.

`frames` are the messages as values, `client` is the agent's end, `server` the collector's, `timing` says when
things are sent.
"""
