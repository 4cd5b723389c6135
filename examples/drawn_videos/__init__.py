"""Videos drawn by a program, on which the quickstart, the ablations and the tests train."""
