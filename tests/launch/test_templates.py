"""The templates in docs/launching.md: they fit together, and Kubernetes would accept them."""

import importlib.util
import pathlib
import re

import pytest
import yaml

from vit_jax import __main__ as command_line

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "launching.md"


@pytest.fixture(scope="module")
def manifests():
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return list(yaml.safe_load_all(block))


def test_the_pods_find_each_other(manifests, monkeypatch):
    service, job = manifests
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][:3] == ["python", "-m", "vit_jax"]
    monkeypatch.chdir(PAGE.parents[1])
    arguments = [word.replace("$(INDEX)", "1") for word in container["command"][3:]]
    options = command_line._parse(arguments)
    name = job["metadata"]["name"]
    assert options.coordinator.startswith(f"{name}-0.{service['metadata']['name']}:")
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert options.num_processes == spec["completions"] == spec["parallelism"]
    assert spec["completionMode"] == "Indexed"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("kubernetes_validate") is None, reason="pip install kubernetes-validate")
def test_the_schemas_of_kubernetes_accept_them(manifests):
    import kubernetes_validate

    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.31", strict=True)
