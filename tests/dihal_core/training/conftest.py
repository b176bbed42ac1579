import numpy as np
import pytest
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.bridges.arms import make_arm
from dihal_core.bridges.fitting import fit_condition, fit_frame
from dihal_core.bridges.frame import Frame
from dihal_core.config import TrainingSettings
from dihal_core.corpus.windows import Windows
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.stages import STAGES
from dihal_core.study import request_for
from dihal_core.training.batches import BatchSource
from dihal_core.training.targets import RecomputeTargets

LAYER, N, T = 2, 40, 20


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smoke():
    """Settings of the smoke profile."""
    return load_study("smoke")


@pytest.fixture(scope="session")
def backbone(smoke):
    """A random 4-layer Llama."""
    return load_backbone(smoke.backbone, {}, "cpu", seed=0)


@pytest.fixture(scope="session")
def windows():
    """Random right-padded windows of ten documents."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 250, (N, T)).astype(np.int32)
    lengths = rng.integers(8, T + 1, N).astype(np.int32)
    tokens[:, 0] = 256
    tokens[np.arange(T) >= lengths[:, None]] = 257
    counts = lengths.copy()
    return Windows(
        tokens, lengths, (np.arange(N) % 10).astype(np.int32), np.zeros(N, np.int16), counts, counts, ("x",), 256, 257
    )


@pytest.fixture
def fitted(backbone, windows, smoke):
    """A batch source of layer 2 with its fitted frame, and the layer's facts."""
    targets = RecomputeTargets(backbone, windows, LAYER)
    plain = BatchSource(backbone, windows, targets, Frame(backbone.hidden_size, 3), clip_sd=10.0)
    train = np.arange(30)
    lengths = torch.from_numpy(windows.lengths_N).long()
    condition, factor = fit_condition(plain.embed, lengths, train, smoke.bridge, "embedding output")
    frame, facts = fit_frame(condition, factor, plain.embed, targets.states, lengths, train, smoke.bridge, "layer 2")
    return plain.with_frame(frame), facts


@pytest.fixture
def source(fitted):
    return fitted[0]


@pytest.fixture
def make_arms(source, smoke):
    """Return fresh arms by name."""

    def make(*names):
        return {name: make_arm(name, smoke.bridge, source.frame, seed=0) for name in names}

    return make


@pytest.fixture
def training():
    """Nine steps in float32, so that small differences show."""
    return TrainingSettings(epochs=1.2, batch_sequences=4, warmup_steps=2, checkpoint_steps=3, autocast="float32")


@pytest.fixture(scope="session")
def study(smoke, tmp_path_factory):
    """Home with corpus, activations and ridge of the smoke study, and their records."""
    home = tmp_path_factory.mktemp("home")
    records = {"assets": {}}
    for stage in ("corpus", "activations", "ridge"):
        records[stage] = ensure(request_for(stage, smoke, home, records))
    return home, records


@pytest.fixture
def request_in(study, tmp_path):
    """Return a maker of requests that write into a home of their own and read the stores of `study`."""
    _, records = study

    def make(stage, settings, unit=None, home="home", values=None):
        inputs = {name: records[name] for name in STAGES[stage].inputs}
        return make_request(stage, settings, inputs, tmp_path / home, unit, values)

    return make


class Stopped(BaseException):
    """Stands for a process that dies: nothing in the code may catch it."""


@pytest.fixture
def stop_at():
    """Return the exception and a maker of progress listeners that raise it at their n-th call."""

    def listener(call):
        seen = {"calls": 0}

        def progress(done, total, unit):
            seen["calls"] += 1
            if seen["calls"] == call:
                raise Stopped

        return progress

    return Stopped, listener
