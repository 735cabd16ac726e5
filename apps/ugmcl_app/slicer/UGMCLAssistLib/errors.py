"""What can go wrong, as sentences for the reader."""


class AssistError(Exception):
    """Something the reader should know; its text is a sentence."""


class ServerRefusal(AssistError):
    """The server answered, and said no; the text is its own sentence.

    Attributes:
        status: The HTTP status, 4xx or 5xx.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class ServerOutOfReach(AssistError):
    """No answer, or one that broke off."""
