"""One module for each experiment, and the command line `solverl` that trains, sweeps, evaluates and reports."""
