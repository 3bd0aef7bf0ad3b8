"""The stages of a run, one module each; `paraknow_core.pipeline` puts them in order."""
