"""Ablations: the study draft, what it costs, studies in every state, and what is said of their results."""

from paraknow_core.workbench.study_draft import load_study_draft


def pills(app, key):
    return next(group for group in app.get("button_group") if group.key == key)


def test_ticked_factors_are_the_draft_of_every_window(place, open_app):
    app = open_app("ablations")
    pills(app, "ablations.factor.extraction.structure").set_value(["submatrix", "row_column"]).run()
    assert not app.exception
    assert load_study_draft(place).study.factors == {"extraction.structure": ("submatrix", "row_column")}
