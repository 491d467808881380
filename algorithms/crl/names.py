"""Names of the presets, for whoever must not import Ray."""

KINDS = ("online", "generative", "online_valid", "certainty", "uniform", "lagrangian")
