"""Entry point of `vdc`: the table of commands, and what happens with whatever a command raises.

Exit codes: 0 done; 1 not done (refused, failed, not reachable, not there in time); 2 the command line or a
manifest file is wrong and nothing was sent; 130 interrupted; 141 whoever read the output is gone. `vdc exec` has its
command's, or 255 where that is not known.
This module imports click alone: `vdc --help` has to answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from vdc.cli.base import Lazy, LazyGroup, OutputGone, context_option

_IN = "vdc.cli.commands."

COMMANDS: dict[str, Lazy] = {
    "create": Lazy(_IN + "create", "create", "Create a VM from a name, a template or an image."),
    "apply": Lazy(_IN + "apply", "apply", "Create or change what manifests describe."),
    "get": Lazy(_IN + "get", "get", "List objects, or print one."),
    "describe": Lazy(_IN + "describe", "describe", "Everything about one object, for people."),
    "delete": Lazy(_IN + "delete", "delete", "Delete an object, or what manifests describe."),
    "start": Lazy(_IN + "run", "start", "Start a VM, or let a paused one go on."),
    "stop": Lazy(_IN + "run", "stop", "Shut a VM down."),
    "restart": Lazy(_IN + "run", "restart", "Restart the guest of a VM."),
    "pause": Lazy(_IN + "run", "pause", "Freeze a VM in memory."),
    "protect": Lazy(_IN + "protect", "protect", "Run a second copy in lockstep."),
    "unprotect": Lazy(_IN + "protect", "unprotect", "Give up the second copy."),
    "promote": Lazy(_IN + "promote", "promote", "Make the secondary the primary."),
    "migrate": Lazy(_IN + "migrate", "migrate", "Move a running VM to another host."),
    "verify": Lazy(_IN + "verify", "verify", "Prove that both copies are the same."),
    "drill": Lazy(_IN + "drill", "drill", "Kill a primary on purpose, and measure."),
    "exec": Lazy(_IN + "exec", "exec_", "Run a command in a container."),
    "cp": Lazy(_IN + "cp", "cp", "Copy files into a container, or out of it."),
    "console": Lazy(_IN + "console", "console", "Use the serial console of a VM."),
    "logs": Lazy(_IN + "logs", "logs", "Print what a container, or a serial console, wrote."),
    "events": Lazy(_IN + "events", "events", "What happened, oldest first."),
    "audit": Lazy(_IN + "audit", "audit", "Who did what, from where, with which result."),
    "node": Lazy(_IN + "node", "node", "Look at hosts, empty them for maintenance."),
    "cluster": Lazy(_IN + "cluster", "cluster", "Can the cluster decide; its users, tokens, certificates."),
    "context": Lazy(_IN + "context", "context", "Which cluster this program talks to, and as whom."),
    "image": Lazy(_IN + "image", "image", "Import, list and remove images."),
    "snapshot": Lazy(_IN + "snapshot", "snapshot", "Take, list, restore and remove snapshots of disks."),
    "backup": Lazy(_IN + "backup", "backup", "Take, list, verify, restore and prune backups."),
    "import": Lazy(_IN + "importing", "import_group", "Bring a VM from another system."),
    "export": Lazy(_IN + "export", "export", "Describe a VM for another system."),
    "lab": Lazy(_IN + "lab", "lab", "Several hosts on this machine, and faults for them."),
    "doctor": Lazy(_IN + "doctor", "doctor", "Find out what is missing, here and on the hosts."),
    "completion": Lazy(_IN + "completion", "completion", "Print the completion script of a shell."),
    "version": Lazy(_IN + "version", "version", "Versions of this program and of the cluster."),
}

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    params=[context_option()],
    example="vdc lab up\nvdc create web --image mycelium/mini --wait\nvdc get endophytes",
)
def cli() -> None:
    """VMs that go on when their host dies."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; nothing that a user can cause prints a traceback."""
    try:
        code = run(arguments)
        sys.stdout.flush()
    except (BrokenPipeError, OutputGone):
        # The interpreter flushes stdout once more at exit, and must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_BROKEN_PIPE
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors have been printed."""
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments), prog_name="vdc", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except (BrokenPipeError, OutputGone):
        raise
    except Exception as error:
        from vdc.cli.errors import report

        return report(error)


if __name__ == "__main__":
    main()
