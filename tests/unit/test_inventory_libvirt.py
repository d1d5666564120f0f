"""What the agent publishes with and without libvirt, and how its answers are kept."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hostagent.config import AgentConfig
from hostagent.drivers.libvirt import cache, sandbox, worker
from hostagent.drivers.libvirt.cache import AnswerCache
from hostagent.drivers.libvirt.client import (
    CpuBaseline,
    LibvirtAnswer,
    LibvirtError,
    LibvirtInventory,
    LibvirtMissingError,
)
from hostagent.drivers.libvirt.describe import choose_cpu, describe_host, memory_for_guests
from vdc.model.errors import InvalidError, RefusedError, VdcError
from vdc.model.host import Accelerator, Host
from vdc.model.units import GIB, MIB


class StubLibvirt(LibvirtInventory):
    """The driver's two questions answered from memory."""

    def __init__(self, answer: LibvirtAnswer | VdcError | CpuBaseline) -> None:
        super().__init__(runtime=None)
        self.answer = answer
        self.asked: list[Sequence[str]] = []

    async def describe(self) -> LibvirtAnswer:
        assert not isinstance(self.answer, CpuBaseline)
        if isinstance(self.answer, VdcError):
            raise self.answer
        return self.answer

    async def baseline(self, cpu_xmls: Sequence[str]) -> CpuBaseline:
        self.asked.append(cpu_xmls)
        assert not isinstance(self.answer, LibvirtAnswer)
        if isinstance(self.answer, VdcError):
            raise self.answer
        return self.answer


ANSWER = LibvirtAnswer(
    uri=sandbox.EMBED_URI,
    libvirt_version="9.0.0",
    cpu_xml="<cpu><model>EPYC</model></cpu>",
    cpu_model="EPYC",
    models=("EPYC", "qemu64"),
    notes=("libvirt cannot describe something",),
)
BASELINE = CpuBaseline(
    uri=sandbox.EMBED_URI, libvirt_version="9.0.0", xml="<cpu/>", qemu_cpu="EPYC,svm=off", source="hypervisor"
)


def config(tmp_path: Path, **changes: Any) -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "host": "h1",
            "state_dir": "/s",
            "management": {"address": "10.0.0.1", "interface": "m0"},
            "replication": {"address": "10.0.1.1", "interface": "r0"},
            "overlay_address": str(AgentConfig.model_fields["network"].get_default().cidr[1]),
            "etcd": {"endpoints": ["https://10.0.0.1:2379"]},
            **changes,
        }
    )


def host(name: str, *, accelerator: str = "kvm", cpu_xml: str = "<cpu/>") -> Host:
    return Host(
        name=name, api_url="", management_address="10.0.0.1", replication_address="10.1.0.1",
        overlay_address="10.2.0.1",
        heartbeat_port=1, agent_version="", incarnation=0, cpus=1, memory_bytes=1,
        accelerator=Accelerator(name=accelerator), cpu_xml=cpu_xml,
    )  # fmt: skip


async def test_libvirts_view_is_published(tmp_path: Path) -> None:
    found = await describe_host(config(tmp_path), cache_dir=tmp_path, driver=StubLibvirt(ANSWER))
    assert (found.source, found.cpu_models, found.cpu_xml) == ("libvirt", ANSWER.models, ANSWER.cpu_xml)
    assert "libvirt cannot describe something" in found.warnings


async def test_without_the_python_module_the_inventory_is_plain_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)  # `import libvirt` raises ImportError
    answer = worker.answer({"question": "inventory", "uris": [], "root": str(tmp_path), "virt_type": "qemu"})
    assert answer["error"] == "missing"
    driver = StubLibvirt(LibvirtMissingError(answer["reason"]))
    found = await describe_host(config(tmp_path), cache_dir=tmp_path, driver=driver)
    assert (found.source, found.cpu_xml, found.cpu_models) == ("plain", "", ())
    assert found.cpus >= 1
    assert any("plain" in sentence and "libvirt cannot be loaded" in sentence for sentence in found.warnings)


async def test_libvirt_is_not_asked_where_the_configuration_forbids_it(tmp_path: Path) -> None:
    found = await describe_host(
        config(tmp_path, use_libvirt=False), cache_dir=tmp_path, driver=StubLibvirt(ANSWER)
    )
    assert found.source == "plain"
    assert not any("libvirt" in sentence for sentence in found.warnings)


async def test_configured_memory_goes_before_the_machines(tmp_path: Path) -> None:
    found = await describe_host(config(tmp_path, memory="3GiB", use_libvirt=False), cache_dir=tmp_path)
    assert found.memory_bytes == 3 * GIB


@pytest.mark.parametrize(("total", "usable"), [(512 * MIB, 256 * MIB), (20 * GIB, 19 * GIB - 512 * MIB)])
def test_the_host_keeps_a_reserve(total: int, usable: int) -> None:
    assert memory_for_guests(total) == usable


async def test_under_tcg_the_cpu_is_constant_and_libvirt_is_not_asked() -> None:
    driver = StubLibvirt(BASELINE)
    choice = await choose_cpu(
        [host("a", accelerator="tcg"), host("b", accelerator="tcg", cpu_xml="")], driver
    )
    assert (choice.qemu_cpu, choice.warnings, driver.asked) == ("qemu64", (), [])


async def test_under_kvm_it_is_the_baseline_of_all_hosts() -> None:
    driver = StubLibvirt(BASELINE)
    choice = await choose_cpu([host("a", cpu_xml="<cpu>1</cpu>"), host("b", cpu_xml="<cpu>2</cpu>")], driver)
    assert choice.qemu_cpu == "EPYC,svm=off"
    assert driver.asked == [["<cpu>1</cpu>", "<cpu>2</cpu>"]]


async def test_a_host_that_libvirt_did_not_describe_costs_the_model() -> None:
    choice = await choose_cpu([host("a"), host("b", cpu_xml="")], StubLibvirt(BASELINE))
    assert choice.qemu_cpu == "qemu64"
    assert "the CPU of b" in choice.warnings[0]


async def test_no_answer_costs_the_model_too() -> None:
    choice = await choose_cpu([host("a"), host("b")], StubLibvirt(LibvirtError("it did not answer")))
    assert choice.qemu_cpu == "qemu64"
    assert "it did not answer" in choice.warnings[0]


async def test_cpus_without_anything_in_common_are_refused() -> None:
    with pytest.raises(RefusedError, match="nothing"):
        await choose_cpu([host("a"), host("b")], StubLibvirt(RefusedError("nothing in common")))


async def test_unlike_accelerators_are_refused_by_name() -> None:
    with pytest.raises(RefusedError, match=r"a: kvm, b: tcg") as refusal:
        await choose_cpu([host("a"), host("b", accelerator="tcg")], StubLibvirt(BASELINE))
    assert refusal.value.code == "accelerators-differ"


@pytest.mark.parametrize("xmls", [[], [""], ["<cpu/>", ""]])
async def test_a_baseline_of_unknown_cpus_is_invalid(xmls: list[str]) -> None:
    with pytest.raises(InvalidError):
        await LibvirtInventory(runtime=None).baseline(xmls)


def test_the_runtime_roots_qemu_is_asked_of_the_embedded_driver_first() -> None:
    root = Path("/runtime")
    assert sandbox.uris(root, has_system_daemon=True) == [sandbox.EMBED_URI, "qemu:///system"]
    assert sandbox.uris(None, has_system_daemon=True) == ["qemu:///system", sandbox.EMBED_URI]
    assert sandbox.uris(None, has_system_daemon=False) == [sandbox.EMBED_URI]


def test_a_folder_or_file_by_a_sockets_name_is_no_daemon(tmp_path: Path) -> None:
    (tmp_path / "libvirt-sock").write_text("")
    assert sandbox.system_sockets(tmp_path) == []


def test_the_sandbox_writes_nowhere_and_ends_with_its_parent() -> None:
    argv = sandbox.sandboxed(["worker"], passwd_fd=7, group_fd=8)
    assert argv[-2:] == ["--", "worker"]
    assert {"--die-with-parent", "--unshare-pid", "--unshare-net"} <= set(argv)
    assert "--bind" not in argv
    assert argv[argv.index("--tmpfs") + 1] == "/run"
    hiding = sandbox.sandboxed(["worker"], passwd_fd=7, group_fd=8, hidden=Path("/var/lib/vdc"))
    assert "--tmpfs /var/lib/vdc" in " ".join(hiding)


class Question:
    """Counts how often it was asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.count = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> dict[str, Any]:
        self.count += 1
        await self.may_answer.wait()
        return {"answer": self.count}


KEY = {"question": "inventory"}


async def test_an_answer_is_kept_for_other_agents(tmp_path: Path) -> None:
    question = Question()
    for _ in range(2):
        assert await AnswerCache(tmp_path / "new", deadline_s=1).get_or_ask(KEY, question) == {"answer": 1}
    assert question.count == 1


async def test_another_question_or_another_library_is_another_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, store = Question(), AnswerCache(tmp_path, deadline_s=1)
    await store.get_or_ask(KEY, question)
    await store.get_or_ask({**KEY, "virt_type": "kvm"}, question)
    monkeypatch.setattr(cache, "_library_versions", lambda: {"libvirt.so.0.99000.0"})
    await store.get_or_ask(KEY, question)
    assert question.count == 3


async def test_an_answer_of_an_earlier_boot_is_asked_for_again_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, store = Question(), AnswerCache(tmp_path, deadline_s=1)
    monkeypatch.setattr(cache, "boot_id", lambda: "yesterday")
    await store.get_or_ask(KEY, question)
    monkeypatch.setattr(cache, "boot_id", lambda: "today")
    await store.get_or_ask(KEY, question)
    assert question.count == 2
    assert len(list(tmp_path.glob("libvirt-*.json"))) == 1


@pytest.mark.parametrize("content", ["", "not json", "[]", json.dumps({"boot_id": "x", "answer": {}})])
async def test_a_spoilt_file_is_asked_for_again(tmp_path: Path, content: str) -> None:
    question, store = Question(), AnswerCache(tmp_path, deadline_s=1)
    await store.get_or_ask(KEY, question)
    next(tmp_path.glob("libvirt-*.json")).write_text(content)
    assert await store.get_or_ask(KEY, question) == {"answer": 2}


async def test_those_who_come_together_ask_once(tmp_path: Path) -> None:
    question = Question()
    question.may_answer.clear()
    stores = [AnswerCache(tmp_path, deadline_s=5) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.get_or_ask(KEY, question)) for store in stores]
        while question.count == 0:
            await asyncio.sleep(0)
        question.may_answer.set()
    assert [task.result() for task in tasks] == [{"answer": 1}] * 3


async def test_a_failure_is_not_kept_and_does_not_block_the_next(tmp_path: Path) -> None:
    async def fail() -> dict[str, Any]:
        raise LibvirtError("no")

    store = AnswerCache(tmp_path, deadline_s=1)
    with pytest.raises(LibvirtError):
        await store.get_or_ask(KEY, fail)
    assert await store.get_or_ask(KEY, Question()) == {"answer": 1}


async def test_a_folder_that_cannot_be_made_only_costs_the_keeping(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = AnswerCache(tmp_path / "file" / "cache", deadline_s=1)
    assert await store.get_or_ask(KEY, Question()) == {"answer": 1}
