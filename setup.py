"""Packages are found: the folders `plugins/` and `tasks/` install under names that cannot collide in site-packages."""

from setuptools import find_packages, setup

FOLDERS = {"harness": "harness", "harness_plugins": "plugins", "harness_tasks": "tasks"}

setup(
    packages=[
        ".".join([name, *inside]) for name, at in FOLDERS.items() for inside in ([], *([x] for x in find_packages(at)))
    ],
    package_dir=FOLDERS,
)
