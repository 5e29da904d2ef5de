"""What the page is made of: its template, styles, scripts, drawings and prose, and the modules that
turn published files into parts of it.

weights.py     the published models, rounded and packed, for model.js to unpack
chart.py       loss curves as SVG
diffs.py       the difference between two scripts, by sections
chapters.toml  what is said of each version: prose that no docstring holds
vN.svg         a drawing for each version
bpe.js model.js sampling.js    the models run: tokens, logits, the choice of a token
play.js page.js                the part that a reader plays with, and the page's other switches
"""
