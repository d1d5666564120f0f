"""CPU descriptions out of libvirt's XML and into QEMU's -cpu."""

from __future__ import annotations

import pytest

from hostagent.drivers.libvirt import cpu

CAPABILITIES = """<capabilities><host><uuid>u</uuid>
<cpu><arch>x86_64</arch><model>EPYC</model><feature name='aes'/></cpu>
<power_management/></host><guest/></capabilities>"""

DOMAIN_CAPABILITIES = """<domainCapabilities><path>/q</path><cpu>
<mode name='host-passthrough' supported='yes'/>
<mode name='host-model' supported='yes'>
  <model fallback='forbid'>EPYC-Rome</model><vendor>AMD</vendor>
  <feature policy='require' name='x2apic'/><feature policy='disable' name='svm'/>
</mode>
<mode name='custom' supported='yes'>
  <model usable='no' vendor='Intel'>Skylake-Client</model>
  <model usable='yes' vendor='unknown'>qemu64</model>
  <model usable='unknown' vendor='unknown'>athlon</model>
  <model usable='yes' vendor='AMD'>EPYC</model>
</mode></cpu></domainCapabilities>"""

BASELINE = """<cpu mode='custom' match='exact'>
  <model fallback='forbid'>EPYC-Rome</model><vendor>AMD</vendor>
  <feature policy='require' name='x2apic'/>
  <feature policy='require' name='lahf_lm'/>
  <feature policy='force' name='aes'/>
  <feature policy='optional' name='fma'/>
  <feature policy='disable' name='xsaves'/>
  <feature policy='forbid' name='hle'/>
  <feature name='rtm'/>
</cpu>"""


def test_the_hosts_cpu_is_taken_out_as_it_is() -> None:
    text = cpu.host_cpu_xml(CAPABILITIES)
    assert text.startswith("<cpu>")
    assert "<model>EPYC</model>" in text
    assert "power_management" not in text


def test_a_host_without_a_cpu_description_gives_nothing() -> None:
    assert cpu.host_cpu_xml("<capabilities><host/></capabilities>") == ""


def test_the_host_model_becomes_a_cpu_element() -> None:
    model = cpu.host_model(DOMAIN_CAPABILITIES)
    assert model is not None
    assert model.name == "EPYC-Rome"
    assert model.xml.startswith('<cpu mode="custom" match="exact">')
    assert 'name="x2apic"' in model.xml
    assert "qemu64" not in model.xml


def test_an_unsupported_host_model_is_none() -> None:
    assert (
        cpu.host_model(
            DOMAIN_CAPABILITIES.replace("'host-model' supported='yes'", "'host-model' supported='no'")
        )
        is None
    )


def test_only_models_that_run_are_usable() -> None:
    assert cpu.usable_models(DOMAIN_CAPABILITIES) == ("EPYC", "qemu64")


def test_policies_become_switches_in_a_fixed_order() -> None:
    assert cpu.qemu_cpu(BASELINE) == (
        "EPYC-Rome,aes=on,fma=on,hle=off,invtsc=off,lahf-lm=on,rtm=on,svm=off,vmx=off,x2apic=on,xsaves=off"
    )


@pytest.mark.parametrize("name", ["svm", "vmx", "invtsc"])
def test_what_lockstep_cannot_copy_is_off_even_where_every_host_has_it(name: str) -> None:
    wanted = f"<cpu><model>EPYC</model><feature policy='require' name='{name}'/></cpu>"
    assert f"{name}=off" in cpu.qemu_cpu(wanted).split(",")
    assert f"{name}=on" not in cpu.qemu_cpu(wanted)


def test_features_of_nested_guests_are_left_out() -> None:
    wanted = "<cpu><model>EPYC</model><feature policy='require' name='vmx-ept'/></cpu>"
    assert "vmx-ept" not in cpu.qemu_cpu(wanted)


@pytest.mark.parametrize("name", sorted(cpu.NO_QEMU_PROPERTY))
def test_what_qemu_has_no_property_for_is_left_out(name: str) -> None:
    wanted = f"<cpu><model>EPYC</model><feature policy='require' name='{name}'/></cpu>"
    assert cpu.qemu_cpu(wanted) == "EPYC,invtsc=off,svm=off,vmx=off"


@pytest.mark.parametrize("text", ["<cpu/>", "<cpu><model> </model></cpu>", "not xml"])
def test_no_model_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no model|not XML"):
        cpu.qemu_cpu(text)
