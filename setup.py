"""Maps the folder kernels/ to the package idgan_fast.kernels; pyproject.toml holds everything else."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["idgan_fast", "idgan_fast.*"]), "idgan_fast.kernels"],
    package_dir={"idgan_fast.kernels": "kernels"},
)
