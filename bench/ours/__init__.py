"""Our side, where no shipped program does the work of a row."""
