import pytest

from dihal_core.corpus.documents import Document, digest_of, group_permille, normalised, seeded_rank


def test_a_document_without_a_group_is_its_own_group():
    assert Document("a", "text", "wiki").group == "a"
    assert Document("a", "text", "wiki", metadata={"group": "play"}).group == "play"


def test_documents_with_one_id_and_two_texts_are_two_documents():
    assert Document("a", "one", "wiki").identity != Document("a", "two", "wiki").identity
    assert Document("a", "one", "wiki").identity != Document("a", "one", "news").identity


def test_parts_of_a_digest_cannot_run_into_each_other():
    assert digest_of("ab", "c") != digest_of("a", "bc")


def test_the_order_of_documents_depends_on_the_seed():
    names = [f"d{i}" for i in range(50)]
    orders = [sorted(names, key=lambda name: seeded_rank(seed, name)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("permille", [60, 500])
def test_groups_fall_on_the_held_out_side_with_the_asked_frequency(permille):
    held = sum(group_permille("wiki", f"article {i}") < permille for i in range(20_000))
    expected = 20_000 * permille / 1000
    assert abs(held - expected) < 5 * expected**0.5


def test_case_and_spacing_do_not_hide_a_duplicate():
    assert normalised("  The\n\nSame\tText ") == normalised("the same text")
