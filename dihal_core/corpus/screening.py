"""Which documents may be used at all, and their windows one after another.

A screen turns documents away (empty, repeated, the lead of an evaluation page); a stream gives the
windows of one source and split in selection order, encoding no more than is asked for.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from dihal_core.corpus.documents import Document, normalised
from dihal_core.corpus.duplicates import DuplicateIndex, WordHashes
from dihal_core.corpus.sources import Source
from dihal_core.corpus.tokenise import DocumentWindows, WindowEncoder

ENCYCLOPAEDIAS = frozenset({"wiki"})
"""Sources whose titles are compared with those of the evaluation pages: a lead repeats its full article."""
REPEATS = frozenset({"duplicate", "near_duplicate"})
BATCH_CHARACTERS = 300_000
BATCH_DOCUMENTS = 256
CHARACTERS_PER_TOKEN = 4


Pick = tuple[DocumentWindows, int]
"""One window: its document and its row there."""


class Screen:
    """Turns documents away, by reason, before they are encoded."""

    def __init__(self, hashes: WordHashes, evaluation: Source | None):
        self.index = DuplicateIndex(hashes)
        self.titles = {normalised(d.title) for d in evaluation.documents if d.title} if evaluation else set()
        self.evaluation = evaluation.name if evaluation else None
        self.rejects: dict[str, Counter[str]] = defaultdict(Counter)
        self.examined: Counter[str] = Counter()
        self.admitted: list[Document] = []
        """By number in `index`."""
        self.watched: int | None = None
        """How many documents of held-out and evaluation sets were admitted before the first training document."""
        self.repeats: Counter[str] = Counter()
        """Training documents that repeat one of these, by reason."""

    def admits(self, document: Document) -> bool:
        """Say whether `document` is used, and count why not."""
        self.examined[document.source] += 1
        if not document.text.strip():
            reason = "empty"
        elif document.source in ENCYCLOPAEDIAS and document.title and normalised(document.title) in self.titles:
            reason = "title_of_evaluation_page"
        else:
            reason = self.index.add(document.text)
        if reason is None:
            self.admitted.append(document)
        else:
            self.rejects[document.source][reason] += 1
            repeated = self.index.repeated if reason in REPEATS else None
            if repeated is not None and self.watched is not None and repeated < self.watched:
                self.repeats[reason] += 1
        return reason is None


class Stream:
    """Windows of one source and split, document after document in selection order."""

    def __init__(
        self,
        documents: Sequence[Document],
        encoder: WindowEncoder,
        screen: Screen,
        caps: tuple[int, int],
        tick: Callable[[], None],
    ):
        """`caps`: windows of a document taken at once, and all in all once the documents have run out."""
        self.picks: list[Pick] = []
        self._encoder, self._screen, self._tick = encoder, screen, tick
        self._at_once, self._cap = caps
        self._wanted = 0
        self._windows = self._generate(iter(documents))

    def take(self, count: int) -> int:
        """Append up to `count` more windows to `picks`; return how many there were."""
        self._wanted = count
        got = 0
        for pick in islice(self._windows, count):
            self.picks.append(pick)
            self._wanted -= 1
            got += 1
        return got

    def _generate(self, documents: Iterator[Document]) -> Iterator[Pick]:
        held_back: list[Pick] = []
        while batch := self._batch(documents):
            for result in self._encoder.encode(batch, self._cap):
                if isinstance(result, str):
                    self._screen.rejects[batch[0].source][result] += 1
                    continue
                held_back.extend((result, row) for row in range(self._at_once, len(result)))
                for row in range(min(self._at_once, len(result))):
                    yield result, row
            self._tick()
        yield from held_back

    def _batch(self, documents: Iterator[Document]) -> list[Document]:
        room = min(BATCH_CHARACTERS, max(1, self._wanted) * self._encoder.window_tokens * CHARACTERS_PER_TOKEN)
        batch: list[Document] = []
        for document in documents:
            if self._screen.admits(document):
                batch.append(document)
                room -= min(len(document.text), self._cap * self._encoder.window_tokens * CHARACTERS_PER_TOKEN)
            if room <= 0 or len(batch) >= BATCH_DOCUMENTS:
                break
        return batch
