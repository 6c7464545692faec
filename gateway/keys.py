"""Names in Redis that Django writes and the gateway reads, or the other way round. Nothing else is shared.

Everything here can be lost at any time: Django writes `GATE` and `ORDERS` again (a tick, and each token
refresh), a lost stream entry is a lost reading, a lost ring is latency.
"""

GATE = "dormouse:gate"
"""Hash: worker id -> JSON {"epoch": int, "next_in_s": float}. Only what it holds may poll or post.
Absent: unknown here, answer 401 `token_expired`, the agent fetches a new token and Django writes the entry.
{"epoch": -1}: revoked, answer 409 `stand_down`."""

ORDERS = "dormouse:orders"
"""Hash: worker id -> JSON list of standing orders [{"kind", "id"}], sent with every status answer."""

STATUS_STREAM = "dormouse:status"
"""Stream of status posts, trimmed by the gateway to about STATUS_STREAM_LENGTH; drained by a tick.
Fields: `body` = the post as JSON, `at` = seconds since the epoch by the gateway's clock."""

STATUS_STREAM_LENGTH = 200_000

RINGS = "dormouse:rings"
"""Pub/sub channel: the id of a worker whose queue has something new. Sent after the message is in the list."""

REVOKED = "dormouse:revoked"
"""Pub/sub channel: the id of a worker whose gate entry changed for the worse. Its parked poll ends at once."""
