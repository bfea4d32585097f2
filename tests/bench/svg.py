"""pygal, without what it leaves behind in the interpreter.

That is an importer of its plugins, whose interface Python has given up: later versions warn of it at any import, which
fails the tests, or pass it over.
"""

import sys

import pygal

sys.meta_path[:] = [importer for importer in sys.meta_path if not isinstance(importer, pygal.PluginImportFixer)]

__all__ = ["pygal"]
