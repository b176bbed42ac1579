"""Which windows a study gets: quotas per source, splits by group, duplicates, overlap with held-out text.

Evaluation pages and held-out documents are drawn first (more than needed), training text second; a
training document that repeats a held-out one is dropped, and a held-out document that still shares
too many 13-grams with the training text goes after that. The first rule cannot see a short text inside
a long one, the second can.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from dihal_core.config import CorpusSettings
from dihal_core.corpus.documents import Document, group_permille, seeded_rank
from dihal_core.corpus.duplicates import SharedGrams, WordHashes
from dihal_core.corpus.quotas import fill
from dihal_core.corpus.screening import REPEATS, Pick, Screen, Stream
from dihal_core.corpus.sources import Pool
from dihal_core.corpus.tokenise import DocumentWindows, WindowEncoder
from dihal_core.errors import ConfigError

EVALUATION_WINDOWS_PER_DOCUMENT = 4
"""Cap in held-out and evaluation sets (ours): intervals resample documents, so many documents beat long ones."""
EVALUATION_DOCUMENTS = 40
"""A held-out or evaluation set takes so few windows of each document that it has about as many documents, if there
are that many (ours)."""
ALL_WINDOWS = 1 << 30
"""Cap in a published evaluation split: all of it may be used, evenly over its documents as far as they go."""
SPARE = 1.5
"""Held-out candidates per window wanted: some fall to the overlap rule."""


@dataclasses.dataclass
class Selection:
    """The windows of every split, and what was left out on the way."""

    picks: dict[str, list[Pick]]
    rejects: dict[str, Counter[str]]
    examined: Counter[str]
    overlap: dict[str, object]
    missing: list[str]


def in_selection_order(documents: Sequence[Document], seed: int) -> list[Document]:
    """Return `documents` in the order in which a plan with `seed` looks at them."""
    return sorted(documents, key=lambda d: (seeded_rank(seed, "document", d.identity), d.id))


def is_heldout(document: Document, heldout_permille: int) -> bool:
    """Say on which side of the split the document's group lies."""
    return group_permille(document.source, document.group) < heldout_permille


def evaluation_part(documents: Sequence[Document], part: str) -> list[Document]:
    """Return the groups of held-out or evaluation documents that belong to `part`, whatever the study's seed.

    `development` is the first half of a fixed order of groups, `test` the rest (the larger half): what was
    looked at while a bridge was designed never returns as evidence for it. Ours: the paper does not say.
    """
    groups = list(dict.fromkeys((d.source, d.group) for d in in_selection_order(documents, 0)))
    development = set(groups[: len(groups) // 2])
    return [d for d in documents if ((d.source, d.group) in development) == (part == "development")]


def select(
    pool: Pool, corpus: CorpusSettings, seed: int, encoder: WindowEncoder, progress: Callable[[int, int], None]
) -> Selection:
    """Draw the windows of all splits.

    Parameters
    ----------
    pool
        Sources at hand.
    corpus, seed
        Settings of the plan.
    encoder
        Cuts documents into windows.
    progress
        Called with (windows drawn, windows wanted).

    Raises
    ------
    ConfigError
        If there are fewer training windows than `corpus.num_sequences`.
    """
    plan = _Plan(pool, corpus, seed, encoder, progress)
    plan.draw_evaluation()
    plan.draw_heldout()
    plan.draw_train()
    plan.settle()
    return plan.selection


class _Plan:
    def __init__(self, pool, corpus, seed, encoder, progress):
        self.pool, self.corpus, self.seed, self.encoder = pool, corpus, seed, encoder
        self.hashes = WordHashes()
        self.screen = Screen(self.hashes, pool.evaluation)
        self.shares = {source.name: source.share for source in pool.train if source.documents}
        self.sides: dict[tuple[str, bool], list[Document]] = defaultdict(list)
        for source in pool.train:
            for document in in_selection_order(source.documents, seed):
                self.sides[source.name, is_heldout(document, corpus.heldout_permille)].append(document)
            self.sides[source.name, True] = evaluation_part(self.sides[source.name, True], corpus.evaluation_part)
        self.streams: dict[tuple[str, str], Stream] = {}
        wanted = corpus.num_sequences + corpus.num_heldout + corpus.num_eval_wiki
        self.tick = lambda: progress(min(sum(len(s.picks) for s in self.streams.values()), wanted - 1), wanted)
        self.selection = Selection({"train": [], "heldout": [], "eval_wiki": []}, {}, Counter(), {}, [])

    def _stream(self, split: str, name: str, documents: Sequence[Document]) -> Stream:
        caps = self.corpus.max_windows_per_document, self.corpus.max_windows_per_document
        if split != "train":
            wanted = self.corpus.num_heldout if split == "heldout" else self.corpus.num_eval_wiki
            few = min(EVALUATION_WINDOWS_PER_DOCUMENT, self.corpus.max_windows_per_document)
            caps = min(few, max(1, math.ceil(wanted / EVALUATION_DOCUMENTS))), few
            if split == "eval_wiki" and self.pool.published_evaluation:
                caps = max(1, math.ceil(wanted / max(len(documents), 1))), ALL_WINDOWS
        stream = self.streams[split, name] = Stream(documents, self.encoder, self.screen, caps, self.tick)
        return stream

    def draw_evaluation(self) -> None:
        """Take candidates for the evaluation pages."""
        if self.pool.evaluation is not None and self.corpus.num_eval_wiki:
            source = self.pool.evaluation
            pages = in_selection_order(source.documents, self.seed)
            if not self.pool.published_evaluation:
                pages = evaluation_part(pages, self.corpus.evaluation_part)
            stream = self._stream("eval_wiki", source.name, pages)
            stream.take(_with_spare(self.corpus.num_eval_wiki))

    def draw_heldout(self) -> None:
        """Take candidates for the held-out windows in the mixture of the sources."""
        for name in self.shares:
            self._stream("heldout", name, self.sides[name, True])
        fill(_with_spare(self.corpus.num_heldout), self.shares, lambda name, n: self.streams["heldout", name].take(n))

    def draw_train(self) -> None:
        """Take exactly the training windows, or say how many there are."""
        self.screen.watched = len(self.screen.index)
        for name in self.shares:
            self._stream("train", name, self.sides[name, False])
        wanted = self.corpus.num_sequences
        quota, taken = fill(wanted, self.shares, lambda name, n: self.streams["train", name].take(n))
        total = sum(taken.values())
        if total < wanted:
            table = ", ".join(f"{name} {count}" for name, count in taken.items())
            raise ConfigError(
                f"corpus.num_sequences is {wanted}, but corpus.kind={self.corpus.kind} gives {total} training windows of "
                f"{self.corpus.window_tokens} tokens ({table}); lower corpus.num_sequences to at most {total} (and the "
                "num_sequences of activations, sweep and replace with it), raise corpus.max_windows_per_document, "
                "or lower corpus.window_tokens"
            )
        self._state_shifts("train", quota, taken)
        self.selection.picks["train"] = [pick for name in self.shares for pick in self.streams["train", name].picks]

    def settle(self) -> None:
        """Measure shared 13-grams, drop held-out documents with too many, trim to what was asked."""
        candidates = {key: stream.picks for key, stream in self.streams.items() if key[0] != "train"}
        watched = list({entry.identity: entry for picks in candidates.values() for entry, _ in picks}.values())
        grams = SharedGrams(self.hashes, [entry.document.text for entry in watched])
        for number, text in enumerate({e.identity: e.document.text for e, _ in self.selection.picks["train"]}.values()):
            grams.see(text)
            if number % 200 == 0:
                self.tick()
        counts = {entry.identity: grams.counts(number) for number, entry in enumerate(watched)}
        limit = self.corpus.max_shared_13gram
        kept = {
            key: [pick for pick in picks if _fraction(counts[pick[0].identity]) <= limit]
            for key, picks in candidates.items()
        }
        self._trim(kept)
        self._report_overlap(watched, counts, limit)
        self._report_near_duplicates()
        self.selection.rejects = {name: +rejects for name, rejects in self.screen.rejects.items()}
        self.selection.examined = self.screen.examined

    def _trim(self, kept: dict[tuple[str, str], list[Pick]]) -> None:
        used: Counter[str] = Counter()

        def take(name: str, count: int) -> int:
            got = kept["heldout", name][used[name] : used[name] + count]
            self.selection.picks["heldout"] += got
            used[name] += len(got)
            return len(got)

        quota, taken = fill(self.corpus.num_heldout, self.shares, take)
        self._state_shifts("heldout", quota, taken)
        self.selection.picks["eval_wiki"] = [
            pick for (split, _), picks in kept.items() if split == "eval_wiki" for pick in picks
        ][: self.corpus.num_eval_wiki]
        for split, wanted in (("heldout", self.corpus.num_heldout), ("eval_wiki", self.corpus.num_eval_wiki)):
            got = len(self.selection.picks[split])
            if got < wanted:
                all_of_it = split == "eval_wiki" and self.pool.published_evaluation
                self.selection.missing.append(
                    f"{split} has {got} windows of the {wanted} asked for; "
                    + ("that is the whole published split" if all_of_it else "no more text fits")
                )

    def _report_overlap(self, watched: list[DocumentWindows], counts: dict[str, tuple[int, int]], limit: float) -> None:
        before, after = defaultdict(lambda: [0, 0]), defaultdict(lambda: [0, 0])
        final = {e.identity for split in ("heldout", "eval_wiki") for e, _ in self.selection.picks[split]}
        dropped: Counter[bool] = Counter()
        touched = 0
        for entry in watched:
            shared, total = counts[entry.identity]
            source = entry.document.source
            before[source] = [before[source][0] + shared, before[source][1] + total]
            if _fraction((shared, total)) > limit:
                dropped[source == self.screen.evaluation] += 1
                self.screen.rejects[source]["shared_13grams"] += 1
            if entry.identity in final:
                after[source] = [after[source][0] + shared, after[source][1] + total]
                touched += shared > 0
        self.selection.overlap = {
            "heldout_documents_dropped": dropped[False],
            "eval_wiki_documents_dropped": dropped[True],
            "documents_sharing_any_13gram": touched,
            "shared_13gram_fraction": {name: round(_fraction(value), 6) for name, value in sorted(after.items())},
            "shared_13gram_fraction_before": {
                name: round(_fraction(value), 6) for name, value in sorted(before.items())
            },
        }

    def _report_near_duplicates(self) -> None:
        """Measure what the first rule turned away, and again over what the splits hold in the end."""
        numbers = {id(document): number for number, document in enumerate(self.screen.admitted)}
        final = {split: {numbers[id(e.document)] for e, _ in picks} for split, picks in self.selection.picks.items()}
        highest = 0.0
        for number in final["heldout"] | final["eval_wiki"]:
            found = self.screen.index.similarities(number)
            highest = max([highest, *(found[other] for other in found.keys() & final["train"])])
        self.selection.overlap["train_documents_repeating_heldout"] = {
            "before": {reason: self.screen.repeats[reason] for reason in sorted(REPEATS)},
            "after": {"highest_jaccard": round(highest, 6)},
        }

    def _state_shifts(self, split: str, quota: dict[str, int], taken: dict[str, int]) -> None:
        for name, wanted in quota.items():
            if taken[name] < wanted:
                self.selection.missing.append(
                    f"{split}: source {name} gave {taken[name]} of its {wanted} windows; "
                    "the rest was shared out among the other sources"
                )


def _with_spare(count: int) -> int:
    return int(count * SPARE) + 8 if count else 0


def _fraction(shared_and_all: Sequence[int]) -> float:
    shared, total = shared_and_all
    return shared / total if total else 0.0
