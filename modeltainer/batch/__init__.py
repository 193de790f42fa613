"""Many requests from a file, exactly one answer a row, whatever happens in between."""
