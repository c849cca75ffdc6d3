"""Words as Kubernetes reads them: `$(NAME)` is a variable, `$$` a dollar.

It reckons nothing. Where a word has a multiple of the pod's number, bash starts the process: all that
is given to the process is given to bash as it stands, and its script has numbers of arguments alone.
"""

from __future__ import annotations

from itertools import groupby

from dsdeploy.deploy.launch import Launch, Process, RankTimes, Symbol, Word, parts_of
from dsdeploy.deploy.targets.words import api_name, known, settings_of, spell


def given_settings(launch: Launch, process: Process) -> dict[str, str]:
    """The environment that needs no reckoning."""
    return {
        name: _spelled(launch, value)
        for name, value in settings_of(process).items()
        if not _is_reckoned(launch, value)
    }


def given_command(launch: Launch, process: Process, argv: tuple[Word, ...]) -> list[str]:
    exported = {
        name: value for name, value in settings_of(process).items() if _is_reckoned(launch, value)
    }
    if not exported and not any(_is_reckoned(launch, word) for word in argv):
        return [_spelled(launch, word) for word in argv]
    given: list[str] = []
    script = "".join(f"export {n}={_shell(launch, v, given)}; " for n, v in exported.items())
    script += "exec " + " ".join(_shell_words(launch, argv, given))
    return ["bash", "-c", script.replace("$", "$$"), "bash", *given]


def _is_reckoned(launch: Launch, word: Word) -> bool:
    """A node alone has the number 0, and so have all its multiples."""
    several = len(launch.nodes) > 1
    return several and any(isinstance(part, RankTimes) for part in parts_of(word))


def _spelled(launch: Launch, word: Word) -> str:
    symbols = {Symbol.HERE: "$(DSDEPLOY_HERE)"}
    if len(launch.nodes) > 1:
        symbols |= {Symbol.HEAD: "$(LWS_LEADER_ADDRESS)", Symbol.RANK: "$(LWS_WORKER_INDEX)"}
    else:
        symbols |= {Symbol.HEAD: "$(DSDEPLOY_HERE)", Symbol.RANK: "0"}
    named = known(symbols, lambda peer: api_name(peer.launch))
    return spell(word, lambda text: text.replace("$", "$$"), named)


def _shell_words(launch: Launch, argv: tuple[Word, ...], given: list[str]) -> list[str]:
    """What bash makes the argv of, and in `given` the arguments that it finds it in."""
    found = []
    for reckoned, words in groupby(argv, lambda word: _is_reckoned(launch, word)):
        if reckoned:
            found += [_shell(launch, word, given) for word in words]
        else:
            first = len(given) + 1
            given += [_spelled(launch, word) for word in words]
            found.append(f'"${{@:{first}:{len(given) - first + 1}}}"')
    return found


def _shell(launch: Launch, word: Word, given: list[str]) -> str:
    pieces = ""
    for part in parts_of(word):
        if isinstance(part, RankTimes):
            pieces += f"$((LWS_WORKER_INDEX * {part.factor}))"
        else:
            given.append(_spelled(launch, part))
            pieces += f"${{{len(given)}}}"
    return f'"{pieces}"'
