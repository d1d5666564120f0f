"""The agent's configuration is read as strictly as a manifest, and each mistake is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostagent.config import load_config
from vdc.model.errors import InvalidError
from vdc.model.strict_yaml import MAX_BYTES

GOOD = b"""host: h1
state_dir: /var/lib/vdc
management: {address: 10.0.0.1, interface: eth0}
replication: {address: 10.1.0.1, interface: eth1}
overlay_address: 10.77.0.1
etcd: {endpoints: ["https://127.0.0.1:1"]}
"""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (GOOD + b"host: h2\n", "key 'host' is given twice"),
        (GOOD + b"labels: &a {b: *a}\n", "alias"),
        (GOOD + b"log_level: !!python/name:os.system\n", "tag"),
        (GOOD + b"memory: .inf\n", "not a number"),
        (GOOD + b"colour: blue\n", "colour: "),
        (GOOD + b"--- {}\n", "2 documents"),
        (GOOD.replace(b"h1", b"\xff"), "UTF-8"),
        (GOOD.replace(b"h1", b"../h1"), "host: "),
        (b"[" * 1000, "nested deeper"),
        (b"#" * (MAX_BYTES + 1), "larger than"),
        (b"", "0 documents"),
        (b"- a\n", "the file: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(tmp_path: Path, text: bytes, word: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(GOOD)
    assert load_config(path).host == "h1"
    path.write_bytes(text)
    with pytest.raises(InvalidError) as caught:
        load_config(path)
    assert caught.value.code == "config-invalid"
    assert word in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidError) as caught:
            load_config(path)
        assert caught.value.code == "config-unreadable"
