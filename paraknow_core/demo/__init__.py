"""The bundled models, the mini tasks, and the recipe that made them.

`tasks` gives the examples of the four mini tasks, each drawn by a module of its own: `word_problems`,
`multiple_choice` (about the invented world of `knowledge`), `instructions`, `open_writing`. `build` makes the models
anew by `recipes`, from the documents of `corpus`; `training`, `widening`, `scoring` and `alignment` serve it alone.
"""
