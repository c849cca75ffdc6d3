"""Words, values and files come through every target unchanged: what can run here is run, with a
program that writes down what it was given."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dsdeploy.deploy.launch import Devices, File, Joined, Node, Secret, Symbol
from dsdeploy.deploy.render import Place, render
from dsdeploy.deploy.targets import bash
from dsdeploy.errors import UsageError
from dsdeploy.strict_yaml import load_yaml

from .conftest import launch, place_for, rendered, server
from .hostile import strings

DUMP = str(Path(__file__).with_name("dump.py"))
WORDS, VALUES = 300, 150
COMPOSE = shutil.which("docker-compose")
CONTROL = "".join(map(chr, [*range(1, 9), *range(11, 32), 127]))


def hostile(out, in_values="", empty_files=True, files=60):
    """A launch of one node, and the words, values and files that must arrive."""
    words = strings(WORDS, 1)
    values = {f"V{n}": text for n, text in enumerate(strings(VALUES, 2, in_values))}
    contents = strings(files, 3)[0 if empty_files else 1 :]
    made_files = tuple(File(f"f{n}", text, 0o600) for n, text in enumerate(contents))
    names = [name for name in strings(400, 4, CONTROL + "/\n\t\r:") if name not in ("", ".", "..")]
    made_files += tuple(File(name, "x") for name in dict.fromkeys(names[:files]))
    mixed = Joined(("$", Symbol.HEAD, "'$(id)", Symbol.RANK, "%h"))
    process = server(
        argv=(sys.executable, DUMP, str(out), *words, mixed),
        environment=values | {"TOKEN": Secret("token")},
        files=made_files,
        probes=None,
    )
    made = launch(Node((process,), Devices("none", 0), 2**20), name="it's $HOME %h")
    return made, words, values, made_files


def same(found, words, values, files, head="127.0.0.1"):
    assert found["argv"] == [*words, f"${head}'$(id)0%h"]
    assert {name: found["environment"].get(name) for name in values} == values
    assert found["environment"]["TOKEN"] == "s'e\"c $HOME"
    for file in files:
        path = Path(found["folder"], file.path)
        assert path.read_bytes().decode() == file.content
        assert path.stat().st_mode & 0o777 == file.mode


def run_script(tmp_path, content, environment):
    script = tmp_path / "a folder, 'with' \"quotes\"" / "run.sh"
    script.parent.mkdir()
    script.write_bytes(content.encode())
    variables = {"PATH": os.environ["PATH"], "TOKEN": "s'e\"c $HOME"} | environment
    done = subprocess.run(["bash", script], env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shell_target_under_bash(tmp_path):
    out = tmp_path / "out.json"
    made, words, values, files = hostile(out)
    run_script(tmp_path, rendered(made, "shell")["start.sh"], {})
    same(json.loads(out.read_text()), words, values, files)


def test_many_words_under_bash(tmp_path):
    out = tmp_path / "out.json"
    words = strings(2500, 5)
    line = " ".join(map(bash.word, [sys.executable, DUMP, str(out), *words]))
    assert "\r" not in line
    subprocess.run(["bash", "-c", line], check=True)
    assert json.loads(out.read_text())["argv"] == words


FAKE_DOCKER = f"""#!{sys.executable}
import json, os, sys
values = {{name: os.environ[name] for name in ("TOKEN",) if name in os.environ}}
open(os.environ["OUT"], "w").write(json.dumps([sys.argv[1:], values]))
"""


def test_the_docker_target(tmp_path):
    out, program = tmp_path / "out.json", tmp_path / "bin" / "docker"
    made, words, values, files = hostile("/out")
    program.parent.mkdir()
    program.write_text(FAKE_DOCKER)
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    run_script(tmp_path, rendered(made, "docker")["docker.sh"], {"PATH": path, "OUT": str(out)})
    argv, secrets = json.loads(out.read_text())
    image = argv.index(made.container.image)
    given = [argv[n + 1] for n, word in enumerate(argv[:image]) if word == "-e"]
    assert given == ["TOKEN", *(f"{name}={value}" for name, value in values.items())]
    assert argv[image - 1] == f"--entrypoint={sys.executable}"
    assert argv[image + 1 :] == [DUMP, "/out", *words, "$127.0.0.1'$(id)0%h"]
    assert secrets == {"TOKEN": "s'e\"c $HOME"}
    mount = next(word for word in argv if word.startswith("type=bind"))
    folder = tmp_path / "a folder, 'with' \"quotes\"" / "node-0" / "server"
    quoted = str(folder).replace('"', '""')
    assert mount == f'type=bind,"source={quoted}",target=/dsdeploy'
    assert {path.name for path in folder.iterdir()} == {file.path for file in files}


def uncomposed(text):
    """As Compose reads a value: two dollars are one, and one alone is a variable."""
    rest = text.replace("$$", "\0").replace("${TOKEN:?Set TOKEN, the secret token}", "secret")
    assert "$" not in rest
    return rest.replace("\0", "$")


@pytest.mark.parametrize("load", [yaml.safe_load, lambda text: load_yaml(text, "compose.yaml")])
def test_the_compose_target_as_yaml(load):
    made, words, values, files = hostile("/out", empty_files=False)
    project = load(rendered(made, "compose")["compose.yaml"])
    service = project["services"]["server"]
    argv = list(map(uncomposed, service["entrypoint"]))
    assert argv[2:] == ["/out", *words, "$127.0.0.1'$(id)0%h"]
    found = {name: uncomposed(value) for name, value in service["environment"].items()}
    assert found == values | {"TOKEN": "secret"}
    contents = [uncomposed(config["content"]) for config in project["configs"].values()]
    assert contents == [file.content for file in files]
    targets = [uncomposed(config["target"]) for config in service["configs"]]
    assert targets == [f"/dsdeploy/{file.path}" for file in files]


@pytest.mark.skipif(not COMPOSE, reason="docker-compose is not installed")
def test_the_compose_target_by_compose(tmp_path):
    made, words, values, files = hostile("/out", empty_files=False)
    (tmp_path / "compose.yaml").write_bytes(rendered(made, "compose")["compose.yaml"].encode())
    done = subprocess.run(
        [COMPOSE, "config", "--format", "json"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TOKEN": "secret", "HOME": "/wrong"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # It prints what another Compose could read: with dollars doubled.
    project = json.loads(done.stdout.replace("$$", "$"))
    service = project["services"]["server"]
    assert service["entrypoint"][2:] == ["/out", *words, "$127.0.0.1'$(id)0%h"]
    assert service["environment"] == values | {"TOKEN": "secret"}
    contents = [project["configs"][c["source"]]["content"] for c in service["configs"]]
    assert contents == [file.content for file in files]


def expanded(text, variables):
    """As the kubelet does it: `$$` is a dollar, `$(NAME)` a variable if there is one."""
    found, at = "", 0
    while at < len(text):
        following = text[at + 1 : at + 2]
        end = text.find(")", at)
        if text[at] != "$" or following not in ("$", "("):
            found, at = found + text[at], at + 1
        elif following == "$":
            found, at = found + "$", at + 2
        else:
            assert end > 0
            found, at = found + variables[text[at + 2 : end]], end + 1
    return found


@pytest.mark.parametrize("load", [yaml.safe_load_all, None])
def test_the_kubernetes_target(load):
    made, words, values, files = hostile("/out")
    text = rendered(made, "kubernetes")["kubernetes.yaml"]
    one_by_one = (load_yaml(part, "kubernetes.yaml") for part in text.split("\n---\n"))
    manifests = {m["kind"]: m for m in (load(text) if load else one_by_one)}
    container = manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    known = {"DSDEPLOY_HERE": "10.1.1.1"}
    argv = [expanded(word, known) for word in container["command"]]
    assert argv[2:] == ["/out", *words, "$10.1.1.1'$(id)0%h"]
    found = {e["name"]: expanded(e["value"], known) for e in container["env"] if "value" in e}
    assert found == values
    assert list(manifests["ConfigMap"]["data"].values()) == [file.content for file in files]


def test_followers_under_bash(tmp_path):
    """With addresses from the environment."""
    out = tmp_path / "out.json"
    made, words, values, files = hostile(out)
    two = dataclasses.replace(made, nodes=(*made.nodes, *made.nodes))
    script = rendered(two, "shell", Place())["start-node-0.sh"]
    run_script(tmp_path, script, {"DSDEPLOY_HEAD": "10.0.0.9"})
    same(json.loads(out.read_text()), words, values, files, "10.0.0.9")


@pytest.mark.parametrize("header", [("a\nb", "rm -rf /\u2028x", "\x85y", "#SBATCH --x", "\x07\\")])
def test_a_header_stays_a_comment(example, header):
    for target in ("shell", "docker", "compose", "kubernetes", "slurm", "systemd"):
        try:
            files = render(example, target, place_for(example), header)
        except UsageError as error:
            assert re.search("MPI|no job the addresses", error.message)  # noqa: PT017
            continue
        for file in files:
            lines = file.content.splitlines()
            assert "# rm -rf /" in lines
            assert "# x" in lines
            assert "# y" in lines
            assert "# \\x07\\" in lines
