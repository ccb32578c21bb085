"""Bounds on what a client may do, with their units."""

BODY_BYTES_MAX = 1 << 20
"""A body: a form with its selectors, a rule file, an order."""

DRAIN_BYTES_MAX = 16 << 20
"""Of a body that is too large, so much is read and dropped, because a client that is still sending does not
read the answer that tells it to stop.
"""

DRAIN_S = 2.0

URL_BYTES_MAX = 16 << 10
"""Longer questions go into a form."""

HEAD_BYTES_MAX = 48 << 10
"""Request line and headers together; what is longer is cut off before anybody parses it."""

CONNECTIONS_MAX = 512

HEAD_TIMEOUT_S = 10.0
"""From the first byte a client may send to the end of its headers: one byte a minute is not a request."""

BODY_TIMEOUT_S = 30.0
STALL_TIMEOUT_S = 30.0
"""How long a client may leave our answer unread."""

KEEP_ALIVE_S = 30
SHUTDOWN_S = 3
