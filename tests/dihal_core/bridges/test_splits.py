import numpy as np
import pytest

from dihal_core.bridges.splits import split_by_document
from dihal_core.errors import ConfigError


@pytest.fixture
def documents():
    return np.random.default_rng(0).integers(0, 60, 500).astype(np.int32)


def test_no_document_lies_on_both_sides_and_no_window_is_lost(documents):
    train, validation = split_by_document(documents, 0.1, seed=0)
    assert not set(documents[train]) & set(documents[validation])
    assert sorted([*train, *validation]) == list(range(500))
    assert 50 <= len(validation) <= 50 + np.bincount(documents).max()


def test_the_documents_chosen_do_not_depend_on_the_order_of_windows(documents):
    shuffled = documents[np.random.default_rng(1).permutation(500)]
    first, second = split_by_document(documents, 0.1, 0)[1], split_by_document(shuffled, 0.1, 0)[1]
    assert set(documents[first]) == set(shuffled[second])


def test_another_seed_chooses_other_documents(documents):
    chosen = [frozenset(documents[split_by_document(documents, 0.1, seed)[1]]) for seed in range(3)]
    assert len(set(chosen)) == 3


def test_both_sides_get_windows_even_if_the_fraction_asks_for_nearly_all():
    train, validation = split_by_document(np.array([1, 1, 1, 2]), 0.99, 0)
    assert len(train)
    assert len(validation)


def test_one_document_cannot_be_split():
    with pytest.raises(ConfigError, match="come from 1 document"):
        split_by_document(np.zeros(9, dtype=np.int32), 0.1, 0)
