"""What can be wrong with the middleware chain; apart from ``mount``, which imports the instrumentation."""


class ChainError(RuntimeError):
    """The chain is not as we know it. The text says what is missing."""
