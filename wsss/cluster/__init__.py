"""Photos and trainings on the machines of a Ray cluster: the optional extra ``wsss[cluster]``."""
