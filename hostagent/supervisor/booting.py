"""Waiting for an emulated guest that was just powered on or reset to come to rest, before its memory is copied.

While a guest boots it loads code where other code has been. Its secondary, whose memory each checkpoint replaces behind
the emulator's back, would go on with translations of what was there before, and crash (see `refresh_code` of the QEMU
driver). KVM has no translations.
"""

from __future__ import annotations

import asyncio

from hostagent.supervisor.copy import Copy

BOOT_LIMIT_S = 30.0
SYSTEM_BOOT_LIMIT_S = 180.0  # of a disk image, which holds a whole system
SHARE_LIMIT = 2.0  # times as long, where the guest gets only a share of the processors that it wants
BOOT_SAMPLE_S = 0.25
BOOT_QUIET_SAMPLES = 2
SYSTEM_QUIET_SAMPLES = (
    20  # of one whose guest agent does not answer (yet): while it boots it waits now and then
)
BOOT_QUIET_SHARE = 0.5  # of one processor; a guest that boots takes all of one


async def boot_settled(copy: Copy) -> None:
    """Wait until the guest is at rest, at most `boot_limit_s`, in which starving for processors does not count."""
    clock, process = copy.host.clock, copy.process
    if process is None or copy.booting_since_s is None or copy.host.record.accelerator.name != "tcg":
        return
    before_s, before = clock.boottime_s(), process.processor_time()
    quiet_samples, starved_s = 0, 0.0
    limit_s = boot_limit_s(copy)
    while quiet_samples < _quiet_samples(copy):
        booting_s = clock.boottime_s() - copy.booting_since_s
        if booting_s - starved_s >= limit_s or booting_s >= SHARE_LIMIT * limit_s:
            break
        await asyncio.sleep(BOOT_SAMPLE_S)
        now_s, now = clock.boottime_s(), process.processor_time()
        waited_s, wanted_s = now.waited_s - before.waited_s, now.wanted_s - before.wanted_s
        is_quiet = wanted_s < BOOT_QUIET_SHARE * (now_s - before_s)
        quiet_samples = quiet_samples + 1 if is_quiet else 0
        if not is_quiet:
            starved_s += (now_s - before_s) * waited_s / wanted_s
        before_s, before = now_s, now
    copy.booting_since_s = None


def boot_limit_s(copy: Copy) -> float:
    """How long a guest that gets the processors it wants may take until it has booted, at the most."""
    return SYSTEM_BOOT_LIMIT_S if copy.agent.has_port else BOOT_LIMIT_S


def _quiet_samples(copy: Copy) -> int:
    has_booted = copy.agent.status is not None and copy.agent.status.is_answering
    return SYSTEM_QUIET_SAMPLES if copy.agent.has_port and not has_booted else BOOT_QUIET_SAMPLES
