"""The command line: `areal-cppo`."""
