"""Makes transformers' Auto classes know hybrids, without importing transformers or torch.

`import dihal_core` puts a finder in front of Python's own that waits for transformers' two Auto modules.
When one of them is imported, by anyone, the hybrid is added to its mapping; a process that never imports
them (a fully cached study) pays nothing. The model class itself is loaded when a hybrid is.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

CONFIGURATIONS = "transformers.models.auto.configuration_auto"
MODELS = "transformers.models.auto.modeling_auto"


def _register_configuration(module: Any) -> None:
    from dihal_core.hybrid.configuration import DiHALConfig

    module.AutoConfig.register(DiHALConfig.model_type, DiHALConfig, exist_ok=True)


def _register_model(module: Any) -> None:
    from dihal_core.hybrid.configuration import DiHALConfig

    class DiHALForCausalLM:
        """Stands for the model class until a hybrid is loaded."""

        config_class = DiHALConfig

        @staticmethod
        def from_pretrained(*arguments: Any, **options: Any) -> Any:
            from dihal_core.hybrid.causal_lm import DiHALForCausalLM

            return DiHALForCausalLM.from_pretrained(*arguments, **options)

        @staticmethod
        def _from_config(*arguments: Any, **options: Any) -> Any:
            from dihal_core.hybrid.causal_lm import DiHALForCausalLM

            return DiHALForCausalLM._from_config(*arguments, **options)

    DiHALForCausalLM.__module__ = __name__
    module.AutoModelForCausalLM.register(DiHALConfig, DiHALForCausalLM, exist_ok=True)


WAITING: dict[str, Callable[[Any], None]] = {CONFIGURATIONS: _register_configuration, MODELS: _register_model}


class _Loader(importlib.abc.Loader):
    """The module's own loader, followed by the registration."""

    def __init__(self, own: Any, register: Callable[[Any], None]):
        self._own, self._register = own, register

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._own.exec_module(module)
        self._register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the Auto modules as Python would, and has the registration follow their loading."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in WAITING:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _Finder):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, WAITING[fullname])
                return spec
        return None


def register_when_imported() -> None:
    """Register with Auto modules that are loaded, and wait for those that are not."""
    for name, register in WAITING.items():
        if name in sys.modules:
            register(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
