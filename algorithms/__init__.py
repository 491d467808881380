"""One folder for each algorithm: configuration, learner, module, and the mathematics in files without Ray."""
