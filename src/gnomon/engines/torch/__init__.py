"""The trunk as torch modules over packed tokens: the GPU engine, the CPU's second one, and the module that trains.

One form of attention is chosen at construction (`attention.py`); no linear layer ever sees padding. `import gnomon`
does not come here: torch is imported with the first of these modules.

Letters: T tokens of all texts, end to end; B texts; S tokens of the longest; H hidden; h heads; d head size; I inner.
"""
