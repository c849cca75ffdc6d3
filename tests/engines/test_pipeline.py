"""The names and arguments that pipeline.py uses, against LMDeploy's own code, which is only read.

Not part of the ordinary suite. Wheels of LMDeploy in a folder, named so:

    pip download --no-deps -d wheels lmdeploy==0.18.0
    DSDEPLOY_LMDEPLOY_WHEELS=wheels pytest tests/engines/test_pipeline.py
"""

import ast
import json
import os
import runpy
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from dsdeploy.resources import read_template

from ..deploy.launches import launched

WHEELS = sorted(Path(os.environ.get("DSDEPLOY_LMDEPLOY_WHEELS", "nowhere")).glob("lmdeploy-*.whl"))
pytestmark = pytest.mark.skipif(not WHEELS, reason="DSDEPLOY_LMDEPLOY_WHEELS names no wheels")


@pytest.fixture(params=WHEELS, ids=lambda path: path.name.split("-")[1])
def wheel(request):
    return Wheel(request.param)


class Wheel:
    def __init__(self, path):
        self.release = path.name.split("-")[1]
        self.archive = zipfile.ZipFile(path)

    def definitions(self, *paths):
        """Of classes and functions, by name."""
        there = [file for file in paths if file in self.archive.namelist()]
        trees = [ast.parse(self.archive.read(file)) for file in there]
        nodes = (node for tree in trees for node in ast.walk(tree))
        return {node.name: node for node in nodes if hasattr(node, "name")}

    def fields(self, name):
        body = self.definitions("lmdeploy/messages.py")[name].body
        return {node.target.id for node in body if isinstance(node, ast.AnnAssign)}

    def arguments(self, name, *paths):
        return {word.arg for word in self.definitions(*paths)[name].args.args}


def called(name):
    """Keywords that the script gives to a function, wherever it calls it."""
    return {
        keyword.arg
        for node in ast.walk(ast.parse(read_template("lmdeploy/pipeline.py")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name)
        for keyword in node.keywords
        if keyword.arg
    }


def settings(release, **wish):
    launch = launched("lmdeploy", "8xh200", release, {"offline": True}, **wish)
    return json.loads(launch.head.processes[0].files[1].content)


def test_the_pipelines_arguments(wheel):
    pipe = ("lmdeploy/pipeline.py", "lmdeploy/serve/async_engine.py")
    assert called("pipeline") == {"backend_config"}
    assert called("pipeline") <= wheel.arguments("pipeline", "lmdeploy/api.py")
    assert called("stream_infer") == {"gen_config", "do_preprocess", "stream_response"}
    assert called("stream_infer") <= wheel.arguments("stream_infer", *pipe)
    assert "close" in wheel.definitions(*pipe)


def test_the_configurations_fields(wheel):
    script = runpy.run_path(str(files("dsdeploy.templates") / "lmdeploy" / "pipeline.py"))
    assert {"do_sample", *script["SAMPLING"].values()} <= wheel.fields("GenerationConfig")
    assert set(settings(wheel.release)["engine"]) <= wheel.fields("PytorchEngineConfig")


def test_the_drafts_fields(wheel):
    if "SpeculativeConfig" not in wheel.definitions("lmdeploy/messages.py"):
        pytest.skip("this release does not draft")
    assert set(settings(wheel.release, mtp=True)["drafts"]) <= wheel.fields("SpeculativeConfig")
    assert "speculative_config" in wheel.arguments("pipeline", "lmdeploy/api.py")


def test_the_responses_fields(wheel):
    used = {"text", "index", "finish_reason", "input_token_len", "generate_token_len"}
    assert used <= wheel.fields("Response")
