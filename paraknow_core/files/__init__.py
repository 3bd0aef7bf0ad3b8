"""Reading and writing files: whole or not at all, tolerant of damage; also names, zip files, and shapes of content."""
