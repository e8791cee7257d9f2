"""The work: config, build, shard, train, checkpoint, evaluate."""
