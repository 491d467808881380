"""One module for each experiment, and the command line `solverl` on top of them."""
