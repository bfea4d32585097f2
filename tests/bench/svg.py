"""pygal, without the importer that it leaves behind in the interpreter.

pygal installs an importer for plugins with an interface that Python removed: later versions warn at any import, which
fails the tests, or ignore it.
"""

import sys

import pygal

sys.meta_path[:] = [importer for importer in sys.meta_path if not isinstance(importer, pygal.PluginImportFixer)]

__all__ = ["pygal"]
