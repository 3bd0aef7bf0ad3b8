"""What pages show, worked out without a browser, one module a page: `pages/_ui/train/` draws what `train.py` gives."""
