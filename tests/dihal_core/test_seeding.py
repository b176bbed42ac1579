import numpy as np

from dihal_core.seeding import stream, torch_seed


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
