"""What pages draw: `frame/` is what all share, each other folder is what one page alone draws."""
