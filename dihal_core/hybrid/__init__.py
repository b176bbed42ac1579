"""The hybrid model (condition, bridge, suffix, logits) and the gates that guard its numbers."""
