"""Asking an engine, as the server does: requests, and the answers that come of them."""

from dataclasses import dataclass, field

from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.runner.engine import Engine, EngineOptions
from dsdeploy.runner.executor import Executor, Forward
from dsdeploy.runner.load import LoadOptions, load_model
from dsdeploy.runner.request import Output, Request, Sampling
from dsdeploy.runner.text import Tokenizer

# So hot that the model's own wishes count for nothing: the text is random, and the MTP layer, which
# draws with the same random numbers, foretells nearly all of it.
HOT = 1000.0


@dataclass
class Answer:
    """What a request has been given so far."""

    outputs: list[Output] = field(default_factory=list)

    @property
    def text(self):
        return "".join(output.text for output in self.outputs)

    @property
    def tokens(self):
        return [token for output in self.outputs for token in output.tokens]

    @property
    def logprobs(self):
        return [entry for output in self.outputs for entry in output.logprobs]

    @property
    def prompt_logprobs(self):
        return [entry for output in self.outputs for entry in output.prompt_logprobs]

    @property
    def end(self):
        """Why it has ended, and which stop string or token did it; it ends once, at the end."""
        reasons = [output.finish_reason for output in self.outputs]
        assert reasons, "nothing has come"
        assert reasons[:-1] == [None] * (len(reasons) - 1)
        return reasons[-1], self.outputs[-1].stop_reason

    @property
    def cached_tokens(self):
        return self.outputs[-1].cached_tokens

    @property
    def all(self):
        """All that must not depend on what else is running."""
        return self.text, self.tokens, self.logprobs, self.prompt_logprobs, self.end


class Watched(Executor):
    """Remembers the steps of the main model."""

    def __init__(self, model, pages, choose_ahead=False, recording=None):
        super().__init__(model, pages, choose_ahead, recording)
        self.steps = []

    def run(self, command):
        if isinstance(command, Forward):
            self.steps.append(command.step.spans)
        return super().run(command)


class Bench:
    """A model with its tokenizer, to make engines of."""

    def __init__(self, folder, **options):
        self.model = load_model(open_checkpoint(folder), LoadOptions(**options))
        self.tokenizer = Tokenizer(folder)
        self.vocabulary = self.model.config.vocab_size

    def engine(self, pages=64, choose_ahead=False, recording=None, **options):
        executor = Watched(self.model, pages, choose_ahead, recording)
        return Engine(executor, self.tokenizer, EngineOptions(**options))

    def letters(self, text, bias=100.0 * HOT):
        """A bias that lets only these characters be chosen, for texts that can be foretold."""
        tokens = {token for letter in text for token in self.tokenizer.encode(letter, False)}
        return dict.fromkeys(tokens, bias)

    def alone(self, prompt, **sampling):
        """The answer that an engine gives which has nothing else to do, and all it needs."""
        engine = self.engine()
        _, answer = add(engine, prompt, **sampling)
        finish(engine)
        return answer


def add(engine, prompt, **sampling):
    """(sequence, answer)"""
    answer = Answer()
    request = Request(tuple(prompt), Sampling(**sampling), answer.outputs.append)
    return engine.add(request), answer


def finish(engine, most_steps=5000):
    """Step until all have ended; what they had is given back."""
    while engine.busy:
        engine.step()
        most_steps -= 1
        assert most_steps, "it goes on for ever"
    assert engine.pool.available == engine.pool.count
