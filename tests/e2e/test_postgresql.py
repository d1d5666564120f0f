"""PostgreSQL as Debian has it, out of a registry: no confirmed transaction is lost with its primary's host.

pgbench, whose log says which transactions were confirmed to it, on connections that it never opens again; its tables
tell whether each of them is there, once and as a whole.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from labprogram import (
    PATIENCE_S,
    START_S,
    WORK_S,
    imported,
    lose_the_primary,
    needs_programs,
    own_client,
)
from pacing import wait_for
from registry_support import needs_registry, running_registry
from testlab import VM, Lab

from tests.debian_programs import program_image

pytestmark = [needs_programs, needs_registry]
IMAGE = "test/postgresql:17"
TRANSACTIONS = 30
# SIGALRM is how its own clock tells pgbench that its time is over: it ends and says how many transactions there were.
_UNTIL_EOF = ("sh", "-c", '"$@" & read end; kill -ALRM $! && wait $!', "sh")
# What TPC-B has to hold whatever was lost: branches, tellers and accounts have what the history says.
SUMS = """
SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts)
    AND sum(delta) = (SELECT sum(bbalance) FROM pgbench_branches)
    AND sum(delta) = (SELECT sum(tbalance) FROM pgbench_tellers) FROM pgbench_history
"""


def test_no_confirmed_transaction_is_lost(lab: Lab, tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry") as registry:
        registry.push(program_image("postgresql"), "library/postgres")
        source = f"docker://{registry.place}/library/postgres:latest"
        with imported(lab, source, IMAGE, "--insecure"):
            lab.ok("create", "postgresql", "--image", IMAGE, "--memory", "256MiB")
            vm = VM(lab, "postgresql")
            lab.watch(vm)
            vm.ask_protection(enabled=False)  # until it has made its database
            wait_for(
                lambda: query(lab, vm, tmp_path, "SELECT 1") == "1",
                START_S,
                "the database is made",
                every_s=1,
            )
            run(lab, vm, tmp_path, "pgbench", "--initialize", "--init-steps=dtGp", "--quiet")
            vm.ask_protection(enabled=True)
            vm.wait_lockstep(START_S)
            check(lab, vm, tmp_path)


def check(lab: Lab, vm: VM, work: Path) -> None:
    with benchmark(lab, vm, work) as load:
        wait_for(lambda: count_of(lab, vm, work) > TRANSACTIONS, WORK_S, "pgbench goes on")
        lose_the_primary(lab, vm)
        wanted = count_of(lab, vm, work) + TRANSACTIONS
        wait_for(lambda: count_of(lab, vm, work) > wanted, WORK_S, "pgbench goes on")
        assert load.poll() is None
        said, _ = load.communicate(timeout=PATIENCE_S)
    assert load.returncode == 0 and "number of failed transactions: 0 " in said, said
    confirmed = sum(len(log.read_text().splitlines()) for log in work.glob("pgbench_log.*"))
    print(f"{confirmed} transactions")
    assert f"actually processed: {confirmed}\n" in said
    assert query(lab, vm, work, SUMS) == f"{confirmed}|t"

    # and they are on the disk of the promoted copy: after an immediate shutdown the server recovers from there
    lab.ok("exec", vm.name, "--", "sh", "-c", "kill -QUIT 1")
    vm.wait("started again", lambda view: bool(view.status.program and view.status.program.restarts), WORK_S)
    wait_for(lambda: query(lab, vm, work, SUMS) == f"{confirmed}|t", WORK_S, "all of them are there")
    vm.wait_lockstep(START_S)


@contextmanager
def benchmark(lab: Lab, vm: VM, work: Path) -> Iterator[subprocess.Popen[str]]:
    """pgbench, which ends by itself where a connection does, else when its input does."""
    argv = command(
        lab, vm, work, "pgbench", "--client=2", "--time=600", "--no-vacuum", "--log", wrapper=_UNTIL_EOF
    )
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.communicate(timeout=PATIENCE_S)


def count_of(lab: Lab, vm: VM, work: Path) -> int:
    """How many transactions there are."""
    return int(query(lab, vm, work, "SELECT count(*) FROM pgbench_history"))


def query(lab: Lab, vm: VM, work: Path, text: str) -> str:
    """What psql says, nothing where it cannot connect."""
    return run(lab, vm, work, "psql", "--no-align", "--tuples-only", "--command", text, check=False)


def run(lab: Lab, vm: VM, work: Path, *words: str, check: bool = True) -> str:
    """What a tool says."""
    argv, errors = command(lab, vm, work, *words), None if check else subprocess.DEVNULL
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=WORK_S, check=check)
    return done.stdout.strip()


def command(lab: Lab, vm: VM, work: Path, tool: str, *words: str, wrapper: Sequence[str] = ()) -> list[str]:
    """One of PostgreSQL's own tools."""
    whom = ["--host", vm.address, "--username", "postgres", "--dbname", "postgres"]
    return own_client(
        lab, "postgresql", work, [*wrapper, f"/usr/lib/postgresql/17/bin/{tool}", *whom, *words]
    )
