"""One distribution with one top-level package: what lies beside the library in a checkout goes into it."""

from setuptools import find_namespace_packages, setup

BESIDE = ("tools", "recipes", "hostfiles")
INCLUDED = [pattern for name in BESIDE for pattern in (name, f"{name}.*")]

setup(
    packages=[
        *find_namespace_packages(include=["lbtrain", "lbtrain.*"]),
        *(f"lbtrain.{name}" for name in find_namespace_packages(include=INCLUDED)),
    ],
    package_dir={"lbtrain": "lbtrain"} | {f"lbtrain.{name}": name for name in BESIDE},
    package_data={"": ["*"]},
    include_package_data=False,
)
