"""Pretrained decoders: where they come from, how they load, how they split into prefix and suffix."""
