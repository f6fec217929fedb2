"""Starts a model's process: run as a script by the Python of the model's environment.

Makes this package importable there and nothing else of the task's own environment, then hands over to worker.py. Any
Python must be able to read this file, so that one that is too old is told.
"""

import importlib
import importlib.util
import os
import sys

OLDEST = (3, 10)


def main() -> None:
    """Run the worker."""
    if sys.version_info < OLDEST:
        sys.exit("Python %s is too old to run a model here: 3.10 or newer is needed." % sys.version.split()[0])  # noqa: UP031
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    name = os.path.basename(folder)  # noqa: PTH119
    # The script's own folder stands first on the path, with modules of everyday names.
    sys.path.pop(0)
    init = os.path.join(folder, "__init__.py")  # noqa: PTH118
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[folder])
    assert spec is not None and spec.loader is not None  # noqa: PT018, S101 - it is a file
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    importlib.import_module(name + ".environments.worker").main(sys.argv[1:])


if __name__ == "__main__":
    main()
