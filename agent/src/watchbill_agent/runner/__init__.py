"""`watchbill-runner`: runs what root of this host allows, and nothing else, when the collector's order says so.

It is root, so it is small and believes little: the agent only carries orders to its socket and events away from it.

    service    the socket: who may speak, frames, deadlines, bounds
    core       one runner: an order in, events out; what runs is looked after, what is told is forgotten
    judging    whether an order is carried out; refuses with the first word that fits
    ledger     which commands were seen, and how far each came; rooms: what they need while they run
    launching  how a supervisor is started: a transient unit, or a session of its own
    executor   the supervisor: one process a command, outlives everybody, writes the result
"""
