"""The networks that turn videos into features. `registry.build_extractor` makes one by its name."""
