import pytest

from dihal_core.backbones import loading
from dihal_core.contract import Stage
from dihal_core.errors import ArtifactError, ResourceError
from dihal_core.profiles import load_study
from dihal_core.requests import find, make_request
from dihal_core.runner import ensure
from dihal_core.stages import STAGES


def test_a_result_made_while_code_was_edited_is_discarded_and_not_cached(tmp_path):
    settings = load_study("smoke")
    request = make_request("corpus", settings, {"assets": {}}, tmp_path)
    request.document["code"]["dihal_core.corpus.windows"] = "as it was when the process imported it"
    with pytest.raises(ArtifactError, match="core code was edited while it ran"):
        ensure(request)
    assert find(request).state == "absent"


def test_after_a_lost_device_the_next_attempt_loads_the_model_afresh(tmp_path, monkeypatch):
    (tmp_path / "losing.py").write_text("def build(context):\n    raise RuntimeError('CUDA error: device lost')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(STAGES, "losing", Stage("losing", "losing:build", reads=("seed",), inputs=(), libraries=()))
    settings = load_study("smoke")
    loaded = loading.load_backbone(settings.backbone, {})
    assert loading.load_backbone(settings.backbone, {}) is loaded
    with pytest.raises(RuntimeError, match="device lost"):
        ensure(make_request("losing", settings, {}, tmp_path / "runs"))
    assert loading.load_backbone(settings.backbone, {}) is not loaded


def test_a_stage_without_memory_is_a_sentence_that_says_what_to_lower(tmp_path, monkeypatch):
    (tmp_path / "hungry.py").write_text("import torch\n\ndef build(context):\n    torch.empty(2**55)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(STAGES, "hungry", Stage("hungry", "hungry:build", reads=("seed",), inputs=(), libraries=()))
    with pytest.raises(ResourceError, match="hungry: out of memory .*lower the batch sizes"):
        ensure(make_request("hungry", load_study("smoke"), {}, tmp_path / "runs"))
