"""What the pages share: the draft spec, reading run folders, the frame around a page, and widgets."""
