"""``mt-submit``: a thin shell over :mod:`modeltainer.service`. One command, one module.

Modules are imported when their command runs; what :mod:`modeltainer.cli.main` itself imports is
click and the standard library, so that ``--help`` and shell completion answer at once.
"""
