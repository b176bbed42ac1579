import pytest

from dihal_core.corpus.quotas import fill, largest_remainder


def test_largest_remainder_gives_the_leftover_seats_to_the_largest_fractions():
    # 47,000 / 16,000 / 15,900 / 12,000 / 6,000 / 3,100 votes, ten seats: the textbook case
    votes = {"a": 47000, "b": 16000, "c": 15900, "d": 12000, "e": 6000, "f": 3100}
    assert largest_remainder(10, votes) == {"a": 5, "b": 2, "c": 1, "d": 1, "e": 1, "f": 0}


@pytest.mark.parametrize("total", [0, 1, 7, 6000, 300_000])
def test_quotas_add_up_exactly(total):
    assert sum(largest_remainder(total, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3, "d": 1e-9}).values()) == total


def test_shares_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="not all 0"):
        largest_remainder(3, {"a": 0.0})


def take_from(stock):
    def take(name, count):
        got = min(count, stock[name])
        stock[name] -= got
        return got

    return take


def test_what_a_small_source_cannot_give_the_others_give_in_proportion():
    quota, taken = fill(100, {"a": 0.5, "b": 0.3, "c": 0.2}, take_from({"a": 10, "b": 1000, "c": 1000}))
    assert quota == {"a": 50, "b": 30, "c": 20}
    assert taken == {"a": 10, "b": 54, "c": 36}


def test_several_sources_may_run_dry_one_after_the_other():
    _, taken = fill(100, {"a": 0.5, "b": 0.3, "c": 0.2}, take_from({"a": 10, "b": 31, "c": 1000}))
    assert taken == {"a": 10, "b": 31, "c": 59}


def test_when_all_run_dry_everything_is_taken():
    _, taken = fill(100, {"a": 0.5, "b": 0.5}, take_from({"a": 3, "b": 4}))
    assert taken == {"a": 3, "b": 4}
