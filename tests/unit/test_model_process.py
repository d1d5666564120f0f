"""What a manifest may say of a container's program: each bound, each mistake with its message."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from vdc.model.manifest_file import describe_mistakes
from vdc.model.process import (
    MAX_FILE_BYTES,
    MAX_WORD_BYTES,
    EmptyDir,
    EnvField,
    EnvVar,
    InjectedFile,
    Probe,
    Process,
    RestartPolicy,
    expand,
    literal,
)

HTTP = {"httpGet": {"port": 80}}


def made(**values: Any) -> Process:
    return Process.model_validate_json(json.dumps(values), strict=True)


def complaint(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        made(**values)
    return describe_mistakes(caught.value, Process)


def file(path: str = "/a", **more: Any) -> dict[str, Any]:
    return {"path": path, "content": "", **more}


def test_an_empty_one_leaves_all_to_the_image() -> None:
    process = Process()
    assert (process.command, process.args, process.user, process.working_dir) == (None, None, None, None)
    assert process.restart_policy is RestartPolicy.ALWAYS and process.stop_seconds == 30
    assert (process.env, process.files, process.empty_dirs, process.ports) == ((), (), (), ())
    assert process.security_context.allow_privilege_escalation


def test_it_comes_back_as_it_went() -> None:
    process = made(
        command=["a"], args=["$(B)"], workingDir="/w", user="999:999", hostname="db-0",
        env=[{"name": "B", "value": "c", "secret": True},
             {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        ports=[{"containerPort": 80, "name": "http", "protocol": "TCP"}],
        securityContext={"fsGroup": 0, "supplementalGroups": [1], "readOnlyRootFilesystem": True,
                         "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"], "add": ["KILL"]}},
        restartPolicy="OnFailure", stopSignal="SIGQUIT", stopSeconds=0,
        emptyDirs=[{"path": "/tmp", "medium": "Memory", "sizeLimit": "16Mi", "readOnly": False}],
        files=[file(), {"path": "/b", "contentBase64": "AP8=", "mode": 0o4755, "secret": True}],
        startupProbe=HTTP, livenessProbe={"tcpSocket": {"port": 1}},
        readinessProbe={"exec": {"command": ["x"]}, "successThreshold": 2},
    )  # fmt: skip
    assert Process.from_json(process.to_json()) == process
    assert process.files[1].data == b"\0\xff"
    assert process.empty_dirs[0].size_limit == 16 * 2**20
    assert json.loads(process.to_json())["env"][1]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"comand": ["a"]}, "comand: unknown field (did you mean command?)"),
        ({"command": "redis-server"}, "command: input should be a valid"),
        ({"command": ["a\0b"]}, "command[0]: a program's words cannot hold the character NUL"),
        ({"args": ["x" * 131_073]}, "args[0]: string should have at most 131072 characters"),
        ({"args": [1]}, "args[0]: input should be a valid string"),
        ({"args": ["x" * 65_536] * 5}, "command, args and env are more than 256 KiB together: use files"),
        ({"env": [{"name": "A", "value": "x" * 100_000}, {"name": "B", "value": "x" * 100_000}],
          "command": ["x" * 100_000]}, "command, args and env are more than 256 KiB"),
        ({"workingDir": "srv"}, "workingDir: string should match pattern"),
        ({"workingDir": "/a\0"}, "workingDir: a program's words cannot hold"),
        ({"user": "no body"}, "user: string should match pattern"),
        ({"user": ":5"}, "user: string should match pattern"),
        ({"hostname": "Db_0"}, "hostname: 'Db_0' is not a valid name"),
        ({"restartPolicy": "always"}, "restartPolicy: input should be 'Always', 'OnFailure' or 'Never'"),
        ({"stopSignal": "SIGNOTHING"}, "stopSignal: 'SIGNOTHING' is not a signal: write for example SIGTERM"),
        ({"stopSignal": "0"}, "is not a signal"),
        ({"stopSignal": "65"}, "is not a signal"),
        ({"stopSignal": "SIG"}, "is not a signal"),
        ({"stopSignal": "sigterm"}, "is not a signal"),
        ({"stopSeconds": -1}, "stopSeconds: input should be greater than or equal to 0"),
        ({"stopSeconds": 3_601}, "stopSeconds: input should be less than or equal to 3600"),
        ({"stopSeconds": True}, "stopSeconds: input should be a valid integer"),
        ({"env": [{"name": "A=B"}]}, "env[0].name: string should match pattern"),
        ({"env": [{"name": ""}]}, "env[0].name: string should match pattern"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "the same variable is given twice"),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
         "env[0].valueFrom.fieldRef.fieldPath: input should be 'status.podIP' or 'metadata.uid'"),
        ({"env": [{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]},
         "env[0]: valueFrom of A goes with neither value nor secret"),
        ({"files": [{"path": "/a"}]}, "files[0]: /a: give either content or contentBase64"),
        ({"files": [file(contentBase64="")]}, "/a: give either content or contentBase64"),
        ({"files": [{"path": "/a", "contentBase64": "!"}]}, "/a: contentBase64 is not base64"),
        ({"files": [{"path": "/a", "contentBase64": "YQ"}]}, "/a: contentBase64 is not base64"),
        ({"files": [file(mode=0o10000)]}, "files[0].mode: input should be less than or equal to 4095"),
        ({"files": [file(mode="0644")]}, "files[0].mode: input should be a valid integer"),
        ({"files": [file(), file()]}, "the same file is given twice"),
        ({"files": [file("/a/b"), file("/a")]}, "/a cannot be a file and a folder"),
        ({"files": [file(f"/{n}") for n in range(257)]}, "files: tuple should have at most 256 items"),
        ({"files": [file(content="é" * (MAX_FILE_BYTES // 2 + 1))]}, "the files are more than 512 KiB together"),
        ({"emptyDirs": [{"path": "/a"}, {"path": "/a"}]}, "the same empty folder is given twice"),
        ({"emptyDirs": [{"path": "/a", "sizeLimit": "1Mi"}]}, "/a: sizeLimit goes with medium: Memory"),
        ({"emptyDirs": [{"path": "/a", "medium": "Memory", "sizeLimit": "1B"}]}, "greater than or equal to 4096"),
        ({"emptyDirs": [{"path": "/a", "medium": "HugePages"}]}, "emptyDirs[0].medium: input should be '' or 'Memory'"),
        ({"ports": [{"containerPort": 0}]}, "ports[0].containerPort: input should be greater than or equal to 1"),
        ({"ports": [{"containerPort": 1, "name": "Http"}]}, "ports[0].name: string should match pattern"),
        ({"ports": [{"containerPort": n, "name": "a"} for n in (1, 2)]}, "the same name of a port is given twice"),
        ({"securityContext": {"fsGroup": -1}}, "securityContext.fsGroup: input should be greater"),
        ({"securityContext": {"fsGroup": 2**31}}, "securityContext.fsGroup: input should be less"),
        ({"securityContext": {"capabilities": {"drop": ["net_raw"]}}}, "capabilities.drop[0]: string should match"),
        ({"securityContext": {"privileged": True}}, "securityContext.privileged: unknown field"),
        ({"livenessProbe": {**HTTP, "successThreshold": 2}}, "livenessProbe.successThreshold can only be 1"),
        ({"startupProbe": {**HTTP, "successThreshold": 2}}, "startupProbe.successThreshold can only be 1"),
    ],
)  # fmt: skip
def test_each_mistake_has_a_message_of_its_own(values: dict[str, Any], words: str) -> None:
    assert words in complaint(**values)


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({}, "a probe is exactly one of exec, httpGet and tcpSocket"),
        ({**HTTP, "tcpSocket": {"port": 1}}, "a probe is exactly one of exec, httpGet and tcpSocket"),
        ({"grpc": {"port": 1}}, "grpc: unknown field"),
        ({"exec": {"command": []}}, "exec.command: tuple should have at least 1 item"),
        ({"exec": {"command": ["a\0"]}}, "exec.command[0]: a program's words"),
        ({"httpGet": {"port": 0}}, "httpGet.port: input should be greater"),
        ({"httpGet": {"port": 65_536}}, "httpGet.port: input should be less"),
        ({"httpGet": {"port": "http"}}, "httpGet.port: input should be a valid integer"),
        ({"httpGet": {"port": 1, "path": "healthz"}}, "httpGet.path: string should match pattern"),
        ({"httpGet": {"port": 1, "path": "/a b"}}, "httpGet.path: string should match pattern"),
        ({"httpGet": {"port": 1, "path": "/a\r\nHost: b"}}, "httpGet.path: string should match pattern"),
        ({"httpGet": {"port": 1, "scheme": "http"}}, "httpGet.scheme: input should be 'HTTP' or 'HTTPS'"),
        ({"httpGet": {"port": 1, "httpHeaders": [{"name": "A b", "value": ""}]}}, "httpHeaders[0].name: string"),
        ({"httpGet": {"port": 1, "httpHeaders": [{"name": "A", "value": "b\nc"}]}}, "httpHeaders[0].value: string"),
        ({"tcpSocket": {}}, "tcpSocket.port: required field is missing"),
        ({**HTTP, "periodSeconds": 0}, "periodSeconds: input should be greater"),
        ({**HTTP, "timeoutSeconds": 0}, "timeoutSeconds: input should be greater"),
        ({**HTTP, "failureThreshold": 0}, "failureThreshold: input should be greater"),
        ({**HTTP, "initialDelaySeconds": -1}, "initialDelaySeconds: input should be greater"),
        ({**HTTP, "initalDelaySeconds": 1}, "initalDelaySeconds: unknown field (did you mean initialDelaySeconds?)"),
    ],
)  # fmt: skip
def test_each_mistake_in_a_probe_has_one(probe: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Probe.model_validate_json(json.dumps(probe), strict=True)
    assert words in describe_mistakes(caught.value, Probe)


def test_a_probe_has_kubernetes_defaults() -> None:
    probe = Probe.model_validate(HTTP)
    assert (probe.initial_delay_seconds, probe.period_seconds, probe.timeout_seconds) == (0, 10, 1)
    assert (probe.success_threshold, probe.failure_threshold) == (1, 3)
    assert probe.http_get is not None and (probe.http_get.path, probe.http_get.scheme) == ("/", "HTTP")


@pytest.mark.parametrize(
    "path",
    ["", "/", "a", "./a", "/a/", "/a//b", "//a", "/a/../b", "/a/./b", "/a\0", "/..", "/proc/1", "/sys", "/dev/null",
     "/dev", "/" + "x" * 256, "/" + "é" * 128],
)  # fmt: skip
def test_a_path_in_the_guest_is_absolute_short_and_not_its_kernels(path: str) -> None:
    for field in ({"files": [file(path)]}, {"emptyDirs": [{"path": path}]}):
        assert "[0].path: " in complaint(**field)


@pytest.mark.parametrize(
    "path", ["/a", "/a b/ü", "/dev/shm", "/dev/shm/x", "/process", "/system", "/" + "x" * 255]
)
def test_other_paths_are_fine(path: str) -> None:
    assert EmptyDir(path=path).path == path and InjectedFile(path=path, content="").path == path


@pytest.mark.parametrize("signal", ["SIGTERM", "TERM", "9", "64", "SIGRTMIN+3", "RTMAX-1", "SIGWINCH"])
def test_signals_by_name_and_number(signal: str) -> None:
    assert made(stopSignal=signal).stop_signal == signal


def test_bounds_themselves_are_allowed() -> None:
    assert made(files=[file(content="x" * MAX_FILE_BYTES)]).files[0].data == b"x" * MAX_FILE_BYTES
    half = "x" * (MAX_WORD_BYTES // 2)
    assert made(command=[half], args=[half]).args == (half,)


def test_a_secret_is_in_no_error_and_no_repr() -> None:
    secret = "hunter2hunter2"
    variable = EnvVar(name="A", value=secret, secret=True)
    injected = InjectedFile(path="/a", content=secret, secret=True)
    encoded = InjectedFile(path="/b", content_base64=base64.b64encode(secret.encode()).decode(), secret=True)
    process = Process(env=(variable,), files=(injected, encoded))
    for shown in (repr(process), str(process), f"{variable} {injected} {encoded}"):
        assert secret not in shown and "aHVudGVy" not in shown
    with pytest.raises(ValidationError) as caught:
        made(env=[{"name": "A", "value": secret + "\0", "secret": True}])
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in describe_mistakes(caught.value, Process)


# ---- $(NAME)


@pytest.mark.parametrize(
    ("text", "result"),
    [  # of Kubernetes' own test, third_party/forked/golang/expansion
        ("$(VAR_A)", "A"), ("___$(VAR_B)___", "___B___"), ("$(VAR_A)$(VAR_B)", "AB"),
        ("$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"), ("$$(VAR_A)", "$(VAR_A)"), ("$$$(VAR_A)", "$A"),
        ("$$$$(VAR_A)", "$$(VAR_A)"),
        ("$(VAR_REF)", "$(VAR_A)"), ("$(VAR_EMPTY)", ""), ("$(MISSING)", "$(MISSING)"), ("$VAR_A", "$VAR_A"),
        ("$(VAR_A", "$(VAR_A"), ("$$(VAR_A", "$(VAR_A"), ("\\$(VAR_A)", "\\A"), ("$", "$"),
        ("a$", "a$"), ("$)", "$)"),
        ("$(", "$("), ("f$", "f$"), ("$()", "$()"), ("--$(VAR_A)", "--A"), ("$(VAR_A$(VAR_B))", "$(VAR_A$(VAR_B))"),
    ],
)  # fmt: skip
def test_variables_are_put_in_as_kubernetes_does(text: str, result: str) -> None:
    variables = {"VAR_A": "A", "VAR_B": "B", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}
    assert expand(text, variables) == result


@given(st.text(alphabet="$()AB x", max_size=20), st.dictionaries(st.sampled_from(["A", "B", ""]), st.text()))
def test_a_literal_stays_what_it_is(text: str, variables: dict[str, str]) -> None:
    assert expand(literal(text), variables) == text


def test_variables_know_those_before_them() -> None:
    fields = {EnvField.POD_IP: "10.77.0.10", EnvField.UID: "u"}
    process = made(
        env=[
            {"name": "A", "value": "$(B)"},
            {"name": "B", "value": "b$$"},
            {"name": "C", "value": "$(A)-$(B)-$(IP)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "D", "value": "$(IP)"},
        ]
    )
    assert process.environment(fields) == {
        "A": "$(B)", "B": "b$", "C": "$(B)-b$-$(IP)", "IP": "10.77.0.10", "D": "10.77.0.10",
    }  # fmt: skip
    assert list(process.environment(fields)) == ["A", "B", "C", "IP", "D"]


# ---- anything at all

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
paths = st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
files = st.builds(
    lambda path, data, mode, secret: {
        "path": path, "contentBase64": base64.b64encode(data).decode(), "mode": mode, "secret": secret,
    },
    paths, st.binary(max_size=20), st.integers(0, 0o7777), st.booleans(),
)  # fmt: skip


@given(
    st.lists(words, max_size=3),
    st.lists(files, max_size=4),
    st.dictionaries(st.text("AB_", min_size=1, max_size=3), st.tuples(words, st.booleans()), max_size=3),
)
def test_what_is_accepted_comes_back_as_it_went(
    args: list[str], given_files: list[dict[str, Any]], env: dict[str, tuple[str, bool]]
) -> None:
    variables = [{"name": name, "value": value, "secret": secret} for name, (value, secret) in env.items()]
    try:
        process = made(args=args, files=given_files, env=variables)
    except ValidationError:
        assume(False)
        return
    assert Process.from_json(process.to_json()) == process
    assert Process.model_validate(process.model_dump(by_alias=True, exclude_defaults=True)) == process
    taken = [file.path for file in process.files]
    assert len(set(taken)) == len(taken)
    assert not any(one != other and other.startswith(f"{one}/") for one in taken for other in taken)
