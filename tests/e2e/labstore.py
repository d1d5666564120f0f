"""Writes to the lab's etcd behind the product's back, as a restored backup or another time would have."""

from __future__ import annotations

import subprocess
import sys

from labcredentials import etcd_url, host_folder
from testlab import VM, Lab

from vdc.lab import api as lab_api

_SCRIPT = """
import asyncio, sys
from pathlib import Path
from vdc.security.folder import load_credentials
from vdc.security.tls import client_context
from vdc.store import keys
from vdc.store.etcd import EtcdStore
from vdc.store.protocol import Delete, Put

async def forget(store, uid, name):
    kept = (keys.EVENTS, keys.OBSERVED)
    items = [item for item in (await store.list(keys.ROOT)).items if not item.key.startswith(kept)]
    gone = [item.key for item in items if uid in item.value or item.key.endswith("/" + name)]
    assert (await store.commit([], [Delete(key) for key in gone])).succeeded

async def note_deleted(store, uid):
    assert (await store.commit([], [Put(keys.deleted(uid), "2026-01-01T00:00:00.000000Z")])).succeeded

async def tamper(store, seq):
    item = await store.get(keys.audit(int(seq)))
    assert (await store.commit([], [Put(item.key, item.value.replace('"result":"ok"', '"result":"no"'))])).succeeded
    print(item.value)

async def put_audit(store, seq, value):
    assert (await store.commit([], [Put(keys.audit(int(seq)), value)])).succeeded

async def main(folder, endpoint, what, *arguments):
    shown = load_credentials(Path(folder))
    ssl = client_context(shown.bundle_pem, shown.certificate_pem, shown.key_pem)
    store = EtcdStore([endpoint], ssl=ssl)
    try:
        await globals()[what](store, *arguments)
    finally:
        await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def forget(lab: Lab, vm: VM) -> None:
    """The cluster has never heard of this VM."""
    _run(lab, "forget", vm.view().metadata.uid, vm.name)


def note_deleted(lab: Lab, uid: str) -> None:
    """A VM of this uid has been deleted."""
    _run(lab, "note_deleted", uid)


def tamper(lab: Lab, seq: int) -> str:
    """Change an entry of the audit log; returns what it was."""
    return _run(lab, "tamper", str(seq)).rstrip("\n")


def put_audit(lab: Lab, seq: int, text: str) -> None:
    """Put an entry back."""
    _run(lab, "put_audit", str(seq), text)


def _run(lab: Lab, *arguments: str) -> str:
    host = lab.plan.hosts[0]
    folder = str(host_folder(lab, host.name))
    words = [sys.executable, "-c", _SCRIPT, folder, etcd_url(lab, host.name), *arguments]
    argv = lab_api.exec_argv(lab.name, host.name, words)
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
