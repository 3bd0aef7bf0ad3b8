"""Files as such: written whole, read whatever has become of them, named, packed, and checked for their shape."""
