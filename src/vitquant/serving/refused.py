"""Why a request is not answered with what it asks for, in words that are the server's own."""


class RefusedError(Exception):
    """A status of HTTP, and one line for the client; it holds nothing of the server's, and no text of the client's."""

    def __init__(self, status: int, why: str, retry_after: int | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.retry_after = status, why, retry_after
