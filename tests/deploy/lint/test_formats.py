"""Every format gives back the words that were put into it, and finds nothing wrong with good ones."""

import json
import shlex

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdeploy.deploy.doubts import called_command, doubts
from dsdeploy.deploy.flags import load_catalogue
from dsdeploy.deploy.lint.check import lint
from dsdeploy.deploy.lint.flag_rules import check_flags, check_variables
from dsdeploy.deploy.lint.formats import guess_format, read_found
from dsdeploy.deploy.render import TARGETS, Place, render
from dsdeploy.deploy.wanted import Wanted

HEADS = {
    "vllm": ["vllm", "serve", "org/model"],
    "sglang": ["python3", "-m", "sglang.launch_server", "--model-path", "org/model"],
    "lmdeploy": ["lmdeploy", "serve", "api_server", "org/model"],
    "tensorrt_llm": ["trtllm-serve", "org/model"],
}
TEXT = st.text(st.sampled_from("abcXYZ 019/._:,=+@~^*?!#&;|<>()[]{}'\"\\äß漢-"), min_size=1).filter(
    lambda text: not text.startswith("-")
)
VALUES = {
    "str": TEXT,
    "any": TEXT,
    "bool": st.sampled_from(["true", "False"]),
    "int": st.integers(-9, 10**6).map(str),
    "float": st.floats(0, 1).map(lambda number: f"{number:.3f}"),
    "json": st.dictionaries(TEXT, st.integers() | TEXT, max_size=2).map(json.dumps),
    "size": st.sampled_from(["8192", "128k", "32K"]),
    "size or auto": st.sampled_from(["auto", "128k"]),
}


def option(flag):
    one = VALUES[flag.type.removesuffix("?")]
    if flag.choices:
        one = st.sampled_from([str(choice) for choice in flag.choices])
    least = {"none": 0, "any": 0, "optional": 0, "one": 1, "many": 1}.get(flag.takes)
    count = int(flag.takes) if least is None else least
    values = st.lists(one, min_size=count, max_size=count)
    return values.map(lambda found: [flag.names[0], *found])


@st.composite
def command_lines(draw):
    engine = draw(st.sampled_from(sorted(HEADS)))
    command, _ = called_command(HEADS[engine])
    catalogue = load_catalogue(command.package, None, command.command).catalogue
    by_names = {flag.names: flag for flag in catalogue.flags.values()}
    flags = [flag for flag in by_names.values() if flag.deprecated is None]
    chosen = draw(st.lists(st.sampled_from(flags), max_size=6, unique_by=lambda flag: flag.names))
    return HEADS[engine] + [word for flag in chosen for word in draw(option(flag))]


def in_compose(argv):
    escaped = [word.replace("$", "$$") for word in argv]
    return yaml.dump({"services": {"a": {"entrypoint": escaped}}}, allow_unicode=True)


def in_kubernetes(argv, style=None):
    pod = {"containers": [{"command": argv[:2], "args": argv[2:]}]}
    return yaml.dump({"kind": "Pod", "spec": pod}, default_style=style)


def in_systemd(argv):
    quoted = ['"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in argv]
    return "[Service]\nEnvironment=A=b\nExecStart=" + " \\\n    ".join(quoted) + "\n"


WRITTEN = {
    "script": lambda argv: "#!/bin/sh\n" + " \\\n\t".join(map(shlex.quote, argv)) + " 2>&1 | tee x",
    "array": lambda argv: (
        f'a=(\n{chr(10).join(map(shlex.quote, argv))} # all\n)\nexec "${{a[@]}}" >log'
    ),
    "nested": lambda argv: f"ssh host bash -lc {shlex.quote(shlex.join(argv))} &",
    "here": lambda argv: f"cat >run.sh <<'END'\n{shlex.join(argv)}\nEND\necho \"it's done\"",
    "docker": lambda argv: f"x=$(docker run -it --rm -p 1:1 --gpus=all image {shlex.join(argv)})",
    "compose": in_compose,
    "compose string": lambda argv: yaml.dump({"services": {"a": {"command": shlex.join(argv)}}}),
    "kubernetes": in_kubernetes,
    "kubernetes quoted": lambda argv: in_kubernetes(argv, '"'),
    "kubernetes sh": lambda argv: in_kubernetes(["sh", "-c", f"set -e\nexec {shlex.join(argv)}"]),
    "systemd": in_systemd,
}


@pytest.mark.parametrize("way", WRITTEN)
@settings(max_examples=150)
@given(command_lines())
def test_words_come_back_and_nothing_is_wrong_with_their_flags(way, argv):
    text = WRITTEN[way](argv)
    form = way.split()[0] if way.split()[0] in ("compose", "kubernetes", "systemd") else "shell"
    assert guess_format(text, "") == form
    (found,) = read_found(text, "x", form)
    words = [word.text for word in found.words]
    assert words[words.index(argv[0]) :] == argv
    report = lint(text, "x", form)
    wrong = [
        finding
        for call in report.calls
        for finding in (*check_flags(call, text), *check_variables(call))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "value", ["$X", '"$X"', "${X:-a b}", "$(cat x)", "`cat x`", "$((1 + 2))", "$1", "1$X", "$'\\n'"]
)
def test_what_is_known_only_when_it_runs_is_not_judged(value):
    report = lint(f"vllm serve m --host ::1 --port {value} --max-model-len={value}", "x", "shell")
    assert report.findings == ()


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("export A=1 B=2\nC=3 vllm serve m", "ABC"),
        ("A=1\nvllm serve m", ""),
        ("A=1\nexport A\nvllm serve m", "A"),
        ("env A=1 vllm serve m; export B=1", "A"),
        ("if true; then A=1 exec vllm serve m; fi", "A"),
        ("docker run -eA=1 --env B=2 --env=C i vllm serve m", "ABC"),
        ("ssh h 'export A=1; vllm serve m'", "A"),
    ],
)
def test_the_environment_of_a_script(text, variables):
    (found,) = read_found(text, "x", "shell")
    assert "".join(variable.name for variable in found.environment) == variables


@pytest.mark.parametrize(
    "text",
    [
        'echo "vllm serve m --no-such"',
        "# vllm serve m",
        "pkill -f vllm serve",
        "don't",
        'a "b',
        "$(",
        "cat <<X",
        "a=(",
        "\\",
        "${",
        "x=`",
        "$(" * 5000,
        '"$(' * 2000,
        "cat <<X\n" * 500,
    ],
)
def test_what_is_no_command_of_an_engine(text):
    assert list(read_found(text, "x", "shell")) == []


@given(st.text("vllm serv$(){}'\"`\\\n#<>&;|=- E"))
def test_no_script_is_too_strange(text):
    list(read_found(f"{text}\nvllm serve m {text}", "x", "shell"))


def test_yaml_that_refers_to_itself():
    bomb = "".join(f"x{n}: &x{n} [{','.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
    pod = "y: &c {containers: [{command: [vllm, serve, m]}], <<: {<<: [*c]}}\n"
    (found,) = read_found(f"x0: &x0 [a]\n{bomb}{pod}", "x", "kubernetes")
    assert [word.text for word in found.words] == ["vllm", "serve", "m"]


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("vllm/vllm-openai:v0.10.2", "0.10.2"),
        ("localhost:5000/mirror/vllm-openai:v0.10.2-cu129", "0.10.2"),
        ("vllm/vllm-openai:latest", "0.33.0"),
        ("mine/server:1.2.3", "0.33.0"),
        ("vllm/vllm-openai:v0.10.2@sha256:0a1b", "0.10.2"),
    ],
)
def test_the_release_is_the_images(image, release):
    (call,) = lint(f"docker run --entrypoint=vllm {image} serve m", "x", "shell").calls
    assert call.catalogue.release == release


def test_what_dsdeploy_renders_has_no_errors(planned):
    for backend, machine in (("vllm", "8xh200"), ("sglang", "2x8xh100")):
        launch = planned(backend, machine, Wanted("v3", "deepseek-ai/DeepSeek-V3", key=True))
        assert doubts(launch) == []
        for target in TARGETS:
            place = Place(addresses=("10.0.0.1", "10.0.0.2")[: len(launch.nodes)])
            for file in render(launch, target, place, ()):
                report = lint(file.content, file.path, guess_format(file.content, file.path))
                assert [one for one in report.findings if one.severity == "error"] == []
