"""The change of a student as data, its injection, its export, and adapters that were saved."""
