"""Manifests as they are found in the world, and what becomes of them; set UPDATE_GOLDEN=1 to write it anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdc.kubernetes.routing import route
from vdc.model.manifest_file import Loaded, load_text
from vdc.model.strict_yaml import dump

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes-manifests.md"
FOLDER = Path(__file__).parent / "golden" / "kubernetes"
NAMES = sorted(path.name.removesuffix(".yaml") for path in FOLDER.glob("*.yaml"))


def shown(item: Loaded) -> Iterator[str]:
    if item.manifest is not None:
        yield f"# {item.origin} becomes {item.label}"
        yield dump(item.manifest.model_dump(mode="json", by_alias=True, exclude_defaults=True)).rstrip()
    elif item.error is not None:
        problem = item.error.problem
        yield f"# {problem.code}"
        yield from (f"#   {part}" for part in problem.message.split("; "))
        yield f"#   hint: {problem.hint}"
    else:
        yield f"# {item.label} {item.part_of}"
    yield from (f"# note: {note}" for note in item.notes)


@pytest.mark.parametrize("name", NAMES)
def test_what_becomes_of_it(name: str) -> None:
    found = route(load_text((FOLDER / f"{name}.yaml").read_bytes(), f"{name}.yaml"))
    text = "\n".join(line for item in found for line in shown(item)) + "\n"
    path = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_documentations_example() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    secret = "\n---\n{apiVersion: v1, kind: Secret, metadata: {name: redis}, stringData: {password: hunter2}}"
    workload, used = route(load_text((example + secret).encode(), "page"))
    assert workload.manifest is not None and used.part_of == "is part of endophyte/redis", workload.error
    assert workload.manifest.spec.virtual_computer.dedicated_nodes == 2
