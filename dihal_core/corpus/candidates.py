"""Which documents of a shard may be used: the ones with the smallest seeded hash, by side of the split."""

from collections.abc import Sequence

from dihal_core.config import CorpusSettings
from dihal_core.corpus.documents import Document, group_permille, seeded_rank
from dihal_core.corpus.plans import MARGIN

EVALUATION_PERMILLE = 20
"""Groups of the evaluation folder in the band above the held-out ones are evaluation pages (ours)."""
CHARACTERS_PER_TOKEN = 6
"""On the high side, so that a document is expected to give fewer windows than it will."""
HELDOUT_CAP = 4
"""Windows of a held-out document that are counted on (ours)."""


def caps(corpus: CorpusSettings) -> tuple[int, int, int]:
    """Return the most windows of one document of train, heldout and evaluation."""
    few = min(HELDOUT_CAP, corpus.max_windows_per_document)
    return corpus.max_windows_per_document, few, few


def side_of(document: Document, corpus: CorpusSettings, evaluation_folder: str | None) -> int:
    """Return 0 for train, 1 for held-out, 2 for evaluation pages."""
    permille = group_permille(document.source, document.group)
    if permille < corpus.heldout_permille:
        return 1
    band = corpus.heldout_permille + EVALUATION_PERMILLE
    return 2 if document.source == evaluation_folder and permille < band else 0


class Keeper:
    """The documents with the smallest rank whose expected windows just cover a budget."""

    def __init__(self, budget: int, corpus: CorpusSettings, cap: int):
        self.budget, self.cap = budget, cap
        self.window_characters = (corpus.window_tokens - 1) * CHARACTERS_PER_TOKEN
        self._found: list[tuple[int, int, Document]] = []
        self._windows = 0

    def offer(self, rank: int, document: Document) -> None:
        """Consider one document; memory stays within about twice the budget."""
        if self.budget:
            expected = min(self.cap, max(1, len(document.text) // self.window_characters))
            self._found.append((rank, expected, document))
            self._windows += expected
            if self._windows > 2 * self.budget + 64:
                self._prune()

    def _prune(self) -> None:
        self._found.sort(key=lambda item: (item[0], item[2].id))
        total, count = 0, 0
        while count < len(self._found) and total < self.budget:
            total += self._found[count][1]
            count += 1
        del self._found[count:]
        self._windows = total

    def kept(self) -> list[Document]:
        """Return what is kept, in order of rank."""
        self._prune()
        return [document for _, _, document in self._found]

    def likely(self) -> list[Document]:
        """Return those of `kept` that the plan will look at first: they cover the quota without its margin."""
        total, found = 0, []
        for _, expected, document in self._found:
            if total >= self.budget / MARGIN:
                break
            total += expected
            found.append(document)
        return found


class Candidates:
    """The keepers of all sides of one shard."""

    def __init__(self, budget: Sequence[int], corpus: CorpusSettings, seed: int, evaluation_folder: str | None):
        self.corpus, self.seed, self.evaluation_folder = corpus, seed, evaluation_folder
        self.keepers = [Keeper(part, corpus, cap) for part, cap in zip(budget, caps(corpus), strict=True)]

    def offer(self, document: Document) -> None:
        """Consider one document."""
        side = side_of(document, self.corpus, self.evaluation_folder)
        if self.keepers[side].budget:
            self.keepers[side].offer(seeded_rank(self.seed, "document", document.identity), document)

    def kept(self) -> list[Document]:
        """Return what is kept: train, held-out, evaluation pages, each in order of rank."""
        return [document for keeper in self.keepers for document in keeper.kept()]
