"""What others say of rendered files: shellcheck, and the schemas of Compose and Kubernetes."""

import importlib.util
import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from dsdeploy.deploy.render import TARGETS
from dsdeploy.errors import UsageError

from .conftest import LAUNCHES, place_for, rendered
from .test_quoting import hostile


def or_skip(launch, target, **place):
    if launch.launcher == "mpi" and len(launch.nodes) > 1 and target not in ("shell", "slurm"):
        with pytest.raises(UsageError, match=f"started by the target {target}"):
            rendered(launch, target)
        pytest.skip("refused")
    if launch.group and target == "slurm":
        with pytest.raises(UsageError, match="gives no job the addresses of others"):
            rendered(launch, target)
        pytest.skip("refused")
    return rendered(launch, target, place_for(launch, **place))


needs_shellcheck = pytest.mark.skipif(
    not shutil.which("shellcheck"), reason="shellcheck is not installed"
)


def shellcheck(scripts):
    for content in scripts:
        command = ["shellcheck", "--shell=bash", "-"]
        done = subprocess.run(command, input=content, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("", 0)


@needs_shellcheck
@pytest.mark.parametrize("target", ["shell", "docker", "slurm"])
def test_shellcheck_finds_nothing(example, target):
    shellcheck(or_skip(example, target).values())


@needs_shellcheck
@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_shellcheck_finds_nothing_in_jobs_of_containers(example, runtime):
    shellcheck(or_skip(example, "slurm", container_runtime=runtime).values())


@pytest.fixture(scope="module")
def compose_schema():
    if not importlib.util.find_spec("check_jsonschema"):
        pytest.skip("check-jsonschema is not installed")
    from jsonschema import Draft7Validator

    folder = files("check_jsonschema.builtin_schemas").joinpath("vendor")
    return Draft7Validator(json.loads(folder.joinpath("compose-spec.json").read_text()))


def test_compose_files_fit_their_schema(example, compose_schema):
    for content in or_skip(example, "compose").values():
        assert [
            error.message for error in compose_schema.iter_errors(yaml.safe_load(content))
        ] == []


def test_hostile_compose_files_fit_their_schema(compose_schema):
    made, *_ = hostile("/out", empty_files=False)
    (content,) = rendered(made, "compose").values()
    assert not list(compose_schema.iter_errors(yaml.safe_load(content)))


def kubernetes_validate():
    return pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")


def leader_worker_set():
    jsonschema = pytest.importorskip("jsonschema", reason="check-jsonschema is not installed")
    schema = Path(__file__).parents[2] / "data" / "leaderworkerset.schema.json"
    return jsonschema.Draft7Validator(json.loads(schema.read_text()))


def check_manifests(content):
    """A LeaderWorkerSet by its own schema, and its templates as pods."""
    validate = kubernetes_validate().validate
    for manifest in yaml.safe_load_all(content):
        if manifest["kind"] != "LeaderWorkerSet":
            validate(manifest, "1.33", strict=True)
            continue
        assert [error.message for error in leader_worker_set().iter_errors(manifest)] == []
        group = manifest["spec"]["leaderWorkerTemplate"]
        for template in (group["leaderTemplate"], group["workerTemplate"]):
            spec = {
                "selector": {"matchLabels": template["metadata"]["labels"]},
                "template": template,
            }
            deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}
            validate(deployment | {"metadata": {"name": "x"}}, "1.33", strict=True)


def test_manifests_fit_their_schemas(example):
    for content in or_skip(example, "kubernetes", namespace="models").values():
        check_manifests(content)


def test_a_field_that_a_leader_worker_set_lacks_is_found():
    manifest = {"kind": "LeaderWorkerSet", "spec": {"replicas": 1, "leaderWorkerTemplates": {}}}
    found = " ".join(error.message for error in leader_worker_set().iter_errors(manifest))
    assert "'leaderWorkerTemplates' was unexpected" in found
    assert "'leaderWorkerTemplate' is a required property" in found


def test_hostile_manifests_fit_their_schemas():
    for content in rendered(hostile("/out")[0], "kubernetes").values():
        check_manifests(content)


@pytest.mark.parametrize("target", TARGETS)
def test_rendering_twice_gives_the_same(target):
    for launch in LAUNCHES.values():
        if launch.launcher == "each" and not (launch.group and target == "slurm"):
            assert rendered(launch, target) == rendered(launch, target)
