"""Many recordings on many processes and machines: plan, select shard by shard, merge."""

SHARD_FRAMES = 600
"""Least number of frames of a shard, the unit of work; the last of a recording may have fewer."""
