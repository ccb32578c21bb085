"""Every limit on what crosses the wire, with its unit, asserted against one another.

A limit that is hit is a counted refusal that names the sender and costs nobody else anything.
"""

KIB = 1024
MIB = 1024 * KIB

MESSAGE_BYTES_MAX = 512 * KIB
DECOMPRESSED_BYTES_MAX = 2 * MIB
BATCH_RECORDS_MAX = 256
BATCH_BYTES_MAX = 256 * KIB
RECORD_BYTES_MAX = 256 * KIB
DICTIONARY_BYTES_MAX = 8 * MIB
DICTIONARY_PARTS_MAX = 64
DICTIONARIES_PER_SESSION_MAX = 64
BLOCKS_PER_RECORD_MAX = 32
TICKS_PER_BLOCK_MAX = 600

EVENT_ID_BYTES = 16
EVENT_BYTES_MAX = 64 * KIB
"""The payload of one critical event. Its producer is refused a larger one, and so is an agent by the collector."""

SERIES_PER_AGENT_MAX = 20_000
NEW_SERIES_PER_MINUTE_MAX = 2_000
LABELS_MAX = 32
LABEL_NAME_BYTES_MAX = 128
LABEL_VALUE_BYTES_MAX = 1_024
METRIC_NAME_BYTES_MAX = 256
HELP_BYTES_MAX = 1_024

CREDIT_BYTES_DEFAULT = 1 * MIB
CREDIT_BYTES_MIN = 64 * KIB
MESSAGE_CHARGE_BYTES = 512
"""Every message counts at least this much against the byte quota: a flood of tiny ones costs wake-ups."""
BYTES_PER_SECOND_SUSTAINED = 256 * KIB
BYTES_BURST = 4 * MIB
SESSIONS_PER_AGENT_MAX = 2
HELLOS_PER_MINUTE_MAX = 30
HELLOS_PER_AGENT_BURST = 20
"""Sessions that one agent may begin: an agent that begins more would use up what all of them together may."""
HANDSHAKES_CONCURRENT_MAX = 50
ENROL_FAILURES_PER_MINUTE_MAX = 5

PENDING_BYTES_MAX = 64 * MIB
"""Accepted and not yet committed, all agents together; beyond it nothing is accepted."""
SESSIONS_MAX = 20_000
RETIRED_SPOOLS_KEPT = 16
BEAT_METRICS_MAX = 512

FUTURE_MS_MAX = 60_000
"""A sample later than the collector's clock by more than this is refused."""
AGE_MS_MAX = 15 * 24 * 3_600_000
"""A sample older than this is refused: raw history would not keep it."""
CLOCK_AGREES_MS = 1_000
"""A host's wall clock within this of the collector's is believed."""

SPOOL_BYTES_DEFAULT = 16 * MIB
SPOOL_DISK_BYTES_DEFAULT = 128 * MIB
GAPS_HELD_MAX = 64
GAP_PARTS_MAX = 256
"""Parts in which a gap tells its samples; what a full credit holds of records of several sizes fits in."""

ACK_RECORDS_MAX = 8
ACK_INTERVAL_MS = 60_000
SEND_GRID_MS = 250
SEND_GRID_BUSY_MS = 1_000
SEND_GRID_BUSY_AGENTS = 200
"""With so many agents they send on the coarser grid: four times as many messages then share a wake-up and a commit."""
KEEPALIVE_MS = 90_000
"""Agents ping a connection on which nothing came for this long; acknowledgements usually come first."""
KEEPALIVE_TIMEOUT_MS = 20_000
"""A connection on which sent bytes stay unconfirmed for this long is given up."""
SILENCE_MAX_MS = 120_000
"""A session from which nothing came for this long is ended by the collector."""

BEAT_INTERVAL_MS_MAX = 10_000
BEAT_INTERVAL_MS_SLOWEST = 60_000
"""How seldom an agent may beat that says so in its Hello: where every byte is paid for."""
RECONNECT_SPREAD_MS_MAX = 120_000

assert BATCH_BYTES_MAX < MESSAGE_BYTES_MAX, "a full batch with its frame has to fit a message"
assert RECORD_BYTES_MAX <= BATCH_BYTES_MAX, "every record has to fit a batch"
assert DICTIONARY_BYTES_MAX <= DICTIONARY_PARTS_MAX * MESSAGE_BYTES_MAX, "a dictionary has to fit its parts"
assert EVENT_BYTES_MAX < RECORD_BYTES_MAX, "every event has to fit a record"
assert SERIES_PER_AGENT_MAX * 8 <= RECORD_BYTES_MAX, "one tick of a full agent has to fit a record"
assert CREDIT_BYTES_MIN * 4 <= CREDIT_BYTES_DEFAULT, "acknowledgements come at a quarter of the credit"
assert BYTES_BURST >= CREDIT_BYTES_DEFAULT, "what the credit allows must not trip the byte quota"
assert 2 * BEAT_INTERVAL_MS_SLOWEST <= SILENCE_MAX_MS, "one lost beat must not end a session"

AUDIT_HEADS_MAX = 64
"""Heads of the collector's audit that an agent keeps, and shows in one Hello."""

TAKES_MAX = 16
"""Orders that an agent may say it takes, of TAKES_CHARACTERS_MAX each; what is beyond is not looked at."""
TAKES_CHARACTERS_MAX = 32
REQUEST_ID_BYTES = 16
"""Of what the collector asks a host to do."""
REQUEST_WITHIN_S = 60
"""A request that a broker could not hand on within this is dropped there: nobody waits for it any more."""
ORDER_BYTES_MAX = 384 * KIB
"""Of a signed order for a host's runner, with what people signed for it."""
assert ORDER_BYTES_MAX < MESSAGE_BYTES_MAX, "every order has to fit a message"
