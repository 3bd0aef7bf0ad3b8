"""The pages: each edits the draft spec, submits runs, reads run folders and draws. None of them computes."""
