"""The frame that makes the rewriter hand on what it put aside: TCP for the rewriter, for nobody's NIC."""

from __future__ import annotations

import struct

from hostagent.drivers.net.nudge import frame


def test_it_is_a_tcp_segment_to_a_mac_that_no_guest_has() -> None:
    data = frame()
    assert len(data) == 60
    assert data[0] & 0b11 == 0b10, "unicast, locally administered"
    assert data[12:14] == b"\x08\x00"
    assert (data[14], data[23], struct.unpack_from("!H", data, 16)[0]) == (0x45, 6, 40)
    assert data[26] == data[30] == 127, "not to be routed or answered by anybody"
    assert data[47] == 0x04, "neither the beginning, nor data, nor the end of a connection"
