"""How well a model predicts a text: bits per byte, and what counting reaches."""
