"""Tables, figures, answers in words, and the one self-contained report of a study."""
