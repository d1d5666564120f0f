"""The layout of keys in the store; nothing else in the project spells a key."""

from __future__ import annotations

ROOT = "/vdc/"
HOSTS = ROOT + "hosts/"
LIVENESS = ROOT + "liveness/"
ENDOPHYTES = ROOT + "endophytes/"
PAIRS = ROOT + "pairs/"
OBSERVED = ROOT + "observed/"
NETWORKS = ROOT + "networks/"
IMAGES = ROOT + "images/"
IMAGE_NAMES = ROOT + "image-names/"
ADDRESSES = ROOT + "addresses/"
SLOTS = ROOT + "slots/"
EVENTS = ROOT + "events/"
MAINTENANCE = ROOT + "maintenance/"
DELETED = ROOT + "deleted/"
SNAPSHOTS = ROOT + "snapshots/"
LEADER = ROOT + "leader"
LINEAGE = ROOT + "lineage"
SECURITY = ROOT + "security/"
USERS = SECURITY + "users/"
CERTIFICATES = SECURITY + "certificates/"
REVOKED = SECURITY + "revoked/"
MACHINES = SECURITY + "machines/"
TRUST = SECURITY + "trust/"
AUTHORITIES = SECURITY + "authorities"
MEMBER_TURN = SECURITY + "member-turn"  # whose etcd member is being started again

# Outside of ROOT, which every agent's mirror reads as a whole.
AUDIT = "/vdc-audit/"
AUDIT_ENTRIES = AUDIT + "entries/"
AUDIT_HEAD = AUDIT + "head"
AUDIT_ANCHOR = AUDIT + "anchor"
AUDIT_PAGE = 100


def host(name: str) -> str:
    """Inventory of a host."""
    return HOSTS + name


def liveness(name: str) -> str:
    """Lease key that exists while the host's agent lives."""
    return LIVENESS + name


def maintenance(host_name: str) -> str:
    """The wish that a host be drained."""
    return MAINTENANCE + host_name


def endophyte(name: str) -> str:
    """Desired state."""
    return ENDOPHYTES + name


def pair(name: str) -> str:
    """The arbitration record."""
    return PAIRS + name


def observed(name: str, host_name: str) -> str:
    """What one host sees of its copy."""
    return f"{OBSERVED}{name}/{host_name}"


def deleted(uid: str) -> str:
    """That a VM was deleted; the value says when. Without it a copy whose record is missing is kept."""
    return DELETED + uid


def network(name: str) -> str:
    """An overlay."""
    return NETWORKS + name


def image(digest: str) -> str:
    """An image's description and the hosts that hold it."""
    return IMAGES + digest


def image_name(reference: str) -> str:
    """The digest that a reference points to."""
    return IMAGE_NAMES + reference


def snapshot(endophyte_name: str, name: str) -> str:
    """A snapshot of a VM, which may be gone."""
    return f"{SNAPSHOTS}{endophyte_name}/{name}"


def address(network_name: str, ip: str) -> str:
    """Reservation of an overlay address; the value is the owner's uid."""
    return f"{ADDRESSES}{network_name}/{ip}"


def mac(mac_address: str) -> str:
    """Reservation of a MAC; the value is the owner's uid."""
    return f"{ADDRESSES}mac/{mac_address}"


def slot(number: int) -> str:
    """Reservation of a pair's block of replication ports."""
    return f"{SLOTS}{number:05d}"


def event(event_id: str) -> str:
    """One event; ids sort by time."""
    return EVENTS + event_id


def audit(seq: int) -> str:
    """One entry of the audit log."""
    return f"{AUDIT_ENTRIES}{seq:012d}"


def audit_page(number: int) -> str:
    """The prefix of AUDIT_PAGE entries: those from `number * AUDIT_PAGE` on."""
    return f"{AUDIT_ENTRIES}{number:010d}"


def user(name: str) -> str:
    """A person who may use the cluster."""
    return USERS + name


def certificate(serial: str) -> str:
    """A certificate that was issued."""
    return CERTIFICATES + serial


def revoked(serial: str) -> str:
    """That a certificate counts no more."""
    return REVOKED + serial


def machine(name: str) -> str:
    """Reservation of a host's or witness's name; the value is the digest of its public key."""
    return MACHINES + name


def trust(host_name: str) -> str:
    """Which authorities a host uses by now."""
    return TRUST + host_name


def last_part(key: str) -> str:
    """The name at the end of a key."""
    return key.rsplit("/", 1)[-1]
