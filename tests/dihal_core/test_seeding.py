import numpy as np

from dihal_core.seeding import stream, torch_seed, training_seed


def test_a_stream_depends_on_seed_and_name_alone():
    first = stream(0, "geometry", "subsample", 3).random(4)
    stream(0, "geometry", "subsample", 2).random(100)
    assert np.array_equal(stream(0, "geometry", "subsample", 3).random(4), first)


def test_streams_of_other_names_seeds_and_types_differ():
    base = stream(0, "a", 1).random()
    assert base != stream(1, "a", 1).random()
    assert base != stream(0, "a", "1").random()
    assert base != stream(0, "a1").random()
    assert base != stream(0, 1, "a").random()


def test_a_torch_seed_fits_into_a_signed_64_bit_integer():
    assert all(0 <= torch_seed(seed, "x") < 2**63 for seed in range(100))


def test_the_first_training_has_the_studys_seed_and_no_two_studies_share_a_further_one():
    assert training_seed(7, 0) == 7
    assert len({training_seed(seed, number) for seed in (7, 8, 9) for number in range(20)}) == 60


def test_further_trainings_keep_the_streams_they_had():
    assert training_seed(0, 1) == torch_seed(0, "sweep seed", 1) == 4_810_855_730_176_127_203
