"""Tasks: examples and their splits, templates and label masks, scorers.

`examples.load_task` gives a `Task`; `templates.encode` turns an example into tokens and labels;
`model_scores.evaluate_all` lets a model answer; `scorers.summarise` turns the records into a score with an interval.
"""
