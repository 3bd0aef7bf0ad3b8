"""Tasks: examples and their splits, templates and label masks, scorers.

`examples.load_task` gives a `Task`; `templates.encode` turns an example into tokens and labels;
`model_scores.evaluate_all` lets a model answer; `scorers.summarise` turns the records into a score with an interval.

| question | modules, in the order in which data passes them |
|---|---|
| what is a task, an example; which are its seed samples | `task` (`Task.seed_samples`) |
| where do examples come from | `examples` (start here), `sources`, `hub`, `uploads`, `formats` |
| which field is the question, the answer, the choices | `layouts` (to add one), `lines`, `choices`, `values` |
| which examples are held out | `splits` |
| how does an example become tokens | `templates`, `chat`, `bounds`, `thoughts`, `pieces` |
| does it fit the models that read it | `fitting` |
| what does a model answer | `model_scores`, `generation`, `likelihood` |
| how is an answer scored | `scorers` (to add one), `answers`, `numerals`, `latex`, `characters`, `rouge` |
"""
