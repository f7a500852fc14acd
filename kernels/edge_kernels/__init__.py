"""Hot loops over arrays: `reference` defines each kernel in numpy float64, `cpu` and `cuda` are its fast twins."""
