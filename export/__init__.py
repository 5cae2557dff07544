"""Models as files for other runtimes, one module a target."""
