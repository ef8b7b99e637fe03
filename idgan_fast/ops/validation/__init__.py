"""How operators are checked: kernels on the GPU at hand, errors beside float64."""
