"""Hot loops over arrays: `reference` defines each kernel in numpy float64, `cpu` is the fast twin of the same name."""
