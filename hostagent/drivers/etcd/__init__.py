"""The etcd member that an agent brings along and keeps running."""

from hostagent.drivers.etcd.member import EmbeddedMember
from hostagent.drivers.etcd.timing import measure_rtt_ms, timing_warnings

__all__ = ["EmbeddedMember", "measure_rtt_ms", "timing_warnings"]
