import logging

import torch

from dihal_core.training.checkpoints import Checkpoints


def test_tensors_and_facts_come_back_exactly(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(7.0), "c": torch.randn(5).bfloat16()}
    facts = {"done": 3, "pending": [0.1, 1 / 3, 1e-300]}
    Checkpoints(tmp_path).save(tensors, facts)
    loaded, found = Checkpoints(tmp_path).load()
    assert found == facts
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(loaded[name], value)
        assert loaded[name].dtype == value.dtype


def test_the_latest_wins_and_can_be_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    for step in (1, 2):
        checkpoints.save({"a": torch.full((1,), float(step))}, {"done": step})
    assert checkpoints.load()[1] == {"done": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    checkpoints.remove()
    checkpoints.remove()
    assert checkpoints.load() is None


def test_an_unreadable_checkpoint_starts_training_anew_and_says_so(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"a": torch.ones(100)}, {"done": 1})
    checkpoints.path.write_bytes(checkpoints.path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.load() is None
    assert "unreadable" in caplog.text
    assert not checkpoints.path.exists()
