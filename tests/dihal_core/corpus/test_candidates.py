import pytest

from dihal_core.corpus.candidates import Candidates, Keeper, side_of
from dihal_core.corpus.documents import Document, group_permille
from dihal_core.profiles import load_study
from dihal_core.seeding import stream

CORPUS = load_study("smoke", overrides={"corpus.heldout_permille": 100}).corpus


def test_a_keeper_holds_the_smallest_ranks_in_any_order():
    documents = [Document(f"d{i}", "x" * 100, "wiki") for i in range(500)]
    ranks = stream(0, "ranks").permutation(500).tolist()
    kept = []
    for order in (range(500), reversed(range(500))):
        keeper = Keeper(20, CORPUS, 4)
        for i in order:
            keeper.offer(ranks[i], documents[i])
        kept.append([d.id for d in keeper.kept()])
    assert kept[0] == kept[1] == [f"d{ranks.index(r)}" for r in range(20)]


def test_the_likely_documents_are_the_first_of_the_kept_ones():
    keeper = Keeper(20, CORPUS, 4)
    for number in range(50):
        keeper.offer(number, Document(f"d{number}", "x" * 100, "wiki"))
    kept, likely = keeper.kept(), keeper.likely()
    assert [d.id for d in likely] == [d.id for d in kept][: len(likely)]
    assert len(likely) == 10


@pytest.mark.parametrize("evaluation_folder", ["wiki", None])
def test_the_sides_are_bands_of_the_group_hash(evaluation_folder):
    documents = [Document(str(n), "text", "wiki") for n in range(400)]
    sides = [side_of(document, CORPUS, evaluation_folder) for document in documents]
    for document, side in zip(documents, sides, strict=True):
        permille = group_permille("wiki", document.id)
        assert side == (1 if permille < 100 else 2 if evaluation_folder and permille < 120 else 0)
    assert set(sides) == ({0, 1, 2} if evaluation_folder else {0, 1})


def test_a_side_without_budget_keeps_nothing():
    candidates = Candidates((5, 0, 0), CORPUS, 0, None)
    for number in range(100):
        candidates.offer(Document(str(number), "text", "wiki"))
    assert candidates.kept()
    assert all(side_of(document, CORPUS, None) == 0 for document in candidates.kept())
