"""Triton kernels, one file an operator; imported as `idgan_fast.kernels`."""

if __name__ == "kernels":
    raise ImportError("kernels: import it as idgan_fast.kernels (the bare name belongs to another project)")
