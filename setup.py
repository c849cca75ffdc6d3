"""Map the top-level folders into the package; a list written by hand would lose new subpackages."""

from setuptools import find_packages, setup

MAPPED = ("backends", "templates", "profiles")

packages = find_packages(include=["dsdeploy", "dsdeploy.*"])
for top in MAPPED:
    packages += [f"dsdeploy.{name}" for name in find_packages(include=[top, f"{top}.*"])]

setup(packages=packages, package_dir={f"dsdeploy.{top}": top for top in MAPPED})
