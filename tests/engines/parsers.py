"""Programs for an engine's own Python: print what its real parser takes, as JSON."""

OPTIONS = """
import argparse, contextlib, io, json, sys

KINDS = {None: "one", 0: "none", 1: "many", "?": "optional", "*": "any", "+": "many"}

def plain(default):
    try:
        return json.loads(json.dumps(default))
    except TypeError:
        return None

def option(action):
    choices = None if action.choices is None else [c for c in action.choices if c is not None]
    return {
        "takes": KINDS.get(action.nargs, str(action.nargs)),
        "choices": choices,
        "default": plain(action.default),
        "type": getattr(action.type, "__name__", None),
    }

def show(parser):
    found = {name: option(action) for name, action in parser._option_string_actions.items()}
    print("OPTIONS" + json.dumps(found, default=str))

words, sys.argv = sys.argv[1:], ["vllm", "serve"]
"""

VLLM = """
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = ServeSubcommand().subparser_init(FlexibleArgumentParser().add_subparsers())
"""

SGLANG = """
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
"""

PARSE = """
def parses(line):
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            parser.parse_args(line.split())
        except (SystemExit, ValueError):
            return False
    return True

print()
print(json.dumps([parses(line) for line in json.loads(words[0])]))
"""
