"""One lock for building modules: loading a diffusers model switches torch's initialisers off for the whole process.

`ModelMixin.from_pretrained` replaces the functions of `torch.nn.init` while it builds, so a layer that another
thread constructs at that moment keeps whatever its memory held. Layers of a sweep are built side by side.
"""

import threading

BUILDING = threading.RLock()
"""Held while an arm is built and while diffusers loads; reentrant, since building an arm may load."""
