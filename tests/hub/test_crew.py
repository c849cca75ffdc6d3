"""Any file, any chunks there already, any faults, any number of workers: the same bytes."""

import hashlib
import json
import random
from contextlib import contextmanager, suppress
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdeploy.errors import DeployError
from dsdeploy.hub.crew import Crew
from dsdeploy.hub.journal import ChunkJournal, read_chunks
from dsdeploy.hub.listing import RemoteFile, git_hash
from dsdeploy.hub.origin import ContentChangedError, Stream
from dsdeploy.hub.pace import Pace
from dsdeploy.hub.part import PartFile
from dsdeploy.hub.retries import Retries, TransientError

from .stand_in import Close
from .tools import asked, is_whole

CHUNK = 16
AT_ONCE = Retries(attempts=10, first_wait=0.0)


@pytest.fixture(autouse=True)
def tiny_chunks(monkeypatch):
    for module in ("part", "folder"):
        monkeypatch.setattr(f"dsdeploy.hub.{module}.CHUNK", CHUNK)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A new folder for each example."""
    above, numbers = tmp_path_factory.mktemp("examples"), count()

    def make():
        folder = above / str(next(numbers))
        folder.mkdir()
        return folder

    return make


class FaultyOrigin:
    """Serves bytes from memory; what goes wrong is drawn anew for each request."""

    def __init__(self, contents, faults, chance):
        self.contents, self.faults, self.chance = contents, list(faults), chance

    @contextmanager
    def stream(self, file, start, stop):
        fault = self.faults.pop() if self.faults else None
        content = self.contents[file.path]
        if fault == "refused":
            raise TransientError("refused")
        if fault == "changed":
            raise ContentChangedError
        first, last = (0, len(content)) if fault == "no ranges" else (start, stop)
        body = bytearray(content[first:last])
        if fault == "flipped":
            body[self.chance.randrange(len(body))] ^= 4
        if fault == "cut":
            del body[self.chance.randrange(len(body)) :]
        yield Stream(first, self.pieces(bytes(body), fault == "broken"))

    def pieces(self, body, broken):
        while body:
            count = self.chance.randint(1, 2 * CHUNK)
            yield body[:count]
            body = body[count:]
            if broken:
                raise TransientError("broken")

    def abort(self):
        pass


class Landing:
    lasting = True

    def __init__(self):
        self.landed = {}

    def admit(self, file):
        return True

    def land(self, part):
        assert part.file.path not in self.landed
        self.landed[part.file.path] = part.path.read_bytes()


class Watch:
    def __init__(self):
        self.retries, self.remarks = 0, []

    def advance(self, nbytes, name):
        pass

    def remark(self, text):
        self.remarks.append(text)

    def retried(self):
        self.retries += 1


def remote(path, content, in_git):
    git = git_hash(len(content))
    git.update(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return RemoteFile(path, len(content), *((None, git.hexdigest()) if in_git else (sha256, None)))


FAULTS = st.lists(
    st.sampled_from(["refused", "cut", "broken", "no ranges", "flipped", "changed", None]),
    max_size=12,
).filter(lambda faults: faults.count("flipped") < 2 and faults.count("changed") < 3)
CHANCES = st.integers(0, 1 << 32).map(random.Random)
FILES = st.lists(st.tuples(st.integers(0, 7 * CHUNK), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=150)
@given(FILES, FAULTS, st.integers(1, 6), CHANCES, st.booleans())
def test_every_file_ends_right(fresh, sizes, faults, workers, chance, lies):
    """`lies`: one chunk that the journal calls done is not what it should be."""
    folder = fresh()
    contents = {f"f{i}": chance.randbytes(size) for i, (size, _) in enumerate(sizes)}
    files, done = [], {}
    lies = lies and "flipped" not in faults
    with_journal = ChunkJournal(folder / "journal")
    for (name, content), (size, in_git) in zip(contents.items(), sizes, strict=True):
        files.append((remote(name, content, in_git), folder / name))
        chunks = -(-size // CHUNK)
        done[name] = {*chance.sample(range(chunks), chance.randint(0, chunks))}
        there = bytearray(size)
        for chunk in done[name]:
            there[chunk * CHUNK : (chunk + 1) * CHUNK] = content[chunk * CHUNK :][:CHUNK]
            with_journal.chunk(name, chunk)
        if lies and done[name]:
            there[min(done[name]) * CHUNK] ^= 1
            lies = False
        (folder / name).write_bytes(there)
    origin = FaultyOrigin(contents, faults, chance)
    landing, watch = Landing(), Watch()
    crew = Crew(origin, files, done, with_journal, landing, AT_ONCE, Pace(None), watch)
    crew.start(workers)
    crew.join()
    with_journal.close()
    assert landing.landed == contents
    noted = read_chunks(folder / "journal").chunks
    assert {name: len(chunks) for name, chunks in noted.items()} == {
        name: -(-len(content) // CHUNK) for name, content in contents.items() if content
    }


@settings(max_examples=60)
@given(st.integers(1, 8 * CHUNK), st.integers(1, 5), CHANCES)
def test_what_a_failed_crew_noted_is_there(fresh, size, workers, chance):
    """Whatever the moment, chunks in the journal have their bytes in the part."""
    folder = fresh()
    content = chance.randbytes(size)
    faults = chance.choices(["refused", "cut", "broken", None], k=6)
    origin = FaultyOrigin({"f": content}, ["refused"] * 30 + faults, chance)
    journal = ChunkJournal(folder / "journal")
    file = remote("f", content, in_git=False)
    few = Retries(attempts=2, first_wait=0.0)
    crew = Crew(origin, [(file, folder / "f")], {}, journal, Landing(), few, Pace(None), Watch())
    crew.start(workers)
    with suppress(DeployError):
        crew.join()
    journal.close()
    there = (folder / "f").read_bytes()
    for chunk in read_chunks(folder / "journal").chunks.get("f", ()):
        stretch = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        assert there[stretch] == content[stretch]


@given(st.integers(0, 9 * CHUNK), CHANCES)
def test_a_part_filled_in_any_order_has_the_hash_of_the_whole(fresh, size, chance):
    content = chance.randbytes(size)
    path = fresh() / "f"
    part = PartFile(path, remote("f", content, in_git=False), (), True)
    order = chance.sample(range(part.count), part.count)
    ends = []
    for chunk in order:
        start, stop = part.span(chunk)
        part.write(content[start:stop], start)
        part.done.add(chunk)
        ends.append(part.hash_what_is_there())
    assert ends == [False] * (part.count - 1) + [True] * (part.count > 0)
    assert part.is_right()
    assert len(part.states) == part.count
    part.close()
    assert path.read_bytes() == content


def test_a_journal_that_a_kill_has_cut_is_read_up_to_there_and_after(tmp_path):
    path = tmp_path / "journal"
    first = ChunkJournal(path)
    first.chunk("a", 0)
    first.chunk("a", 1)
    first.close()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        second = ChunkJournal(path)
        second.chunk("a", 7)
        second.close()
        chunks = read_chunks(path).chunks["a"]
        lines = whole[:length].split(b"\n")
        assert chunks == {7} | {json.loads(line)["chunk"] for line in lines if line[-1:] == b"}"}


@pytest.mark.usefixtures("cached", "without_waiting")
def test_one_reset_in_a_hundred_over_two_thousand_requests(
    hub, repository, download, out, monkeypatch
):
    chunk = 4096
    for module in ("part", "folder"):
        monkeypatch.setattr(f"dsdeploy.hub.{module}.CHUNK", chunk)
    source = repository({f"{i}.safetensors": 500 * chunk - i for i in range(4)})
    chance, resets = random.Random(1), []

    def maybe():
        if chance.random() < 0.01:
            resets.append(Close(chance.randrange(chunk), reset=True))
            return resets[-1]
        return None

    hub.chance = maybe
    result = download("--workers", 4, "--json")
    assert result.exit_code == 0, result.output
    assert is_whole(out, source)
    assert len(asked(hub, "storage")) >= 2000 + len(resets) * 0.9
    assert len(resets) > 5
    retries = json.loads(result.stdout)["retries"]
    assert 0 < retries <= len(resets)
