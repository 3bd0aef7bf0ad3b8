"""Files as such: what disks do to them, what they are named by, what they hand out, what shape their contents have."""
