"""The doors: the `genctr` command, TorchX components, ready configs."""
