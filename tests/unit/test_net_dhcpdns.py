"""What dnsmasq is told, word for word, and when it has to be told again."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pydantic import ValidationError

from hostagent.drivers.net.dhcpdns import (
    MAX_DNS_SERVERS,
    DhcpDnsConfig,
    DnsName,
    Reservation,
    render_config,
    render_dhcp_hosts,
    render_dns_hosts,
)
from hostagent.drivers.net.dnsmasq import Change, DhcpDns, dnsmasq_argv
from vdc.model.network import Network

WEB = Reservation(name="web", mac="52:54:00:00:00:0a", address=IPv4Address("10.77.0.10"))
DB = Reservation(name="db", mac="52:54:00:00:00:0b", address=IPv4Address("10.77.0.9"))
DB2 = Reservation(name="db", mac="52:54:00:00:00:0c", address=IPv4Address("10.77.0.100"))
CONFIG = DhcpDnsConfig.of(
    Network(),
    interface="br-default",
    dns_servers=(IPv4Address("10.77.0.2"), IPv4Address("10.77.0.1")),
    reservations=(WEB, DB2, DB),
)

GOLDEN = """\
# Written by the host agent, and overwritten.
interface=br-default
except-interface=lo
bind-dynamic
user=
pid-file=
log-facility=-
no-hosts
no-resolv
domain-needed
bogus-priv
domain=vdc.internal
local=/vdc.internal/
addn-hosts=/run/x/dns-hosts
dhcp-hostsfile=/run/x/dhcp-hosts
dhcp-range=10.77.0.0,static,255.255.255.0,infinite
dhcp-lease-max=256
dhcp-ignore=tag:!known
dhcp-ignore-names
leasefile-ro
no-ping
dhcp-broadcast
dhcp-option=option:dns-server,10.77.0.1,10.77.0.2
dhcp-option=option:router
dhcp-option-force=option:mtu,1400
dhcp-option=option:domain-search,vdc.internal
"""


def test_configuration_golden() -> None:
    assert render_config(CONFIG, Path("/run/x")) == GOLDEN


def test_upstream_servers_and_user_appear_only_when_asked_for() -> None:
    text = render_config(CONFIG.with_(upstream=("192.0.2.53",), user="nobody"), Path("/run/x"))
    assert "\nserver=192.0.2.53\n" in text and "\nuser=nobody\n" in text
    assert "server=192" not in GOLDEN


def test_dhcp_hosts_golden() -> None:
    assert render_dhcp_hosts(CONFIG) == (
        "52:54:00:00:00:0b,10.77.0.9,db,infinite\n"
        "52:54:00:00:00:0a,10.77.0.10,web,infinite\n"
        "52:54:00:00:00:0c,10.77.0.100,db,infinite\n"
    )


def test_dns_hosts_golden() -> None:
    config = CONFIG.with_(names=(DnsName(name="shop", address=IPv4Address("10.77.0.10")),))
    assert render_dns_hosts(config) == (
        "10.77.0.9 db.vdc.internal db\n"
        "10.77.0.10 shop.vdc.internal shop\n"
        "10.77.0.10 web.vdc.internal web\n"
        "10.77.0.100 db.vdc.internal db\n"
    )


def test_all_hosts_render_the_same_whatever_order_they_heard_things_in() -> None:
    other = CONFIG.with_(reservations=(DB, WEB, DB2), dns_servers=tuple(reversed(CONFIG.dns_servers)))
    assert render_config(other, Path("/x")) == render_config(CONFIG, Path("/x"))
    assert render_dhcp_hosts(other) == render_dhcp_hosts(CONFIG)
    assert render_dns_hosts(other) == render_dns_hosts(CONFIG)


def test_the_list_of_dns_servers_stays_short() -> None:
    many = CONFIG.with_(dns_servers=tuple(IPv4Address("10.77.0.1") + n for n in range(100)))
    line = next(line for line in render_config(many, Path("/x")).splitlines() if "dns-server" in line)
    assert line.count(",") == MAX_DNS_SERVERS


@pytest.mark.parametrize(
    "change",
    [
        {"interface": "br\nconf-file=/etc/shadow"},
        {"domain": "x\nserver=192.0.2.1"},
        {"domain": "UPPER"},
        {"user": "root\ndhcp-script=/bin/sh"},
        {"dns_servers": ()},
        {"reservations": ({"name": "a,b", "mac": WEB.mac, "address": "10.77.0.10"},)},
        {"reservations": ({"name": "web", "mac": "52:54:00:00:00:0a,x", "address": "10.77.0.10"},)},
    ],
)
def test_nothing_can_be_smuggled_into_a_line(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CONFIG.with_(**change)


def test_argv() -> None:
    assert dnsmasq_argv(Path("/run/x"), program="/usr/sbin/dnsmasq") == [
        "/usr/sbin/dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/run/x/dnsmasq.conf",
    ]


def test_files_are_written_only_when_they_differ(tmp_path: Path) -> None:
    files = DhcpDns(tmp_path / "dns")
    assert files.write(CONFIG) is Change.RESTART
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "dns").iterdir()}
    assert {path.name for path in stamps} == {"dnsmasq.conf", "dhcp-hosts", "dns-hosts"}
    assert files.write(CONFIG) is Change.NOTHING
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "dns").iterdir()}
    fewer = CONFIG.with_(reservations=(WEB,))
    assert files.write(fewer) is Change.RESTART  # it would keep the lease, and the address with it
    assert (tmp_path / "dns" / "dhcp-hosts").read_text() == render_dhcp_hosts(fewer)
    assert files.write(CONFIG) is Change.RELOAD
    assert files.write(fewer.with_(mtu=1300)) is Change.RESTART
