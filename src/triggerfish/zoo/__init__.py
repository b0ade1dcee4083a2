"""Small PLMs made from larger ones, for demos, tests and examples that run offline in seconds:
`distil.distil`, with the settings in `settings.DistilSettings`."""
