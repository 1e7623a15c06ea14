"""The errors that strongticket raises on purpose: each is one line that says what to do."""


class StrongTicketError(Exception):
    """Something a user can mend; the message says what was given, what was expected and what to do."""


class ConfigError(StrongTicketError):
    """An option, a configuration key or an argument has a value that cannot be used."""


class ModelError(StrongTicketError):
    """A network cannot be masked, rebuilt or run as asked."""


class DataError(StrongTicketError):
    """A data set is missing, damaged or does not fit the network."""


class SearchError(StrongTicketError):
    """A search cannot go on: the loss diverged, or a checkpoint does not fit."""


class TicketError(StrongTicketError):
    """A ticket file is damaged, or a ticket belongs to another network."""


class ExportError(StrongTicketError):
    """A ticket cannot be expressed in the target format, or its export failed verification."""


class MissingExtraError(StrongTicketError):
    """An optional dependency is needed; the message carries the pip command."""


class InterruptedRunError(StrongTicketError):
    """A run was stopped by a signal; what it had done is in its checkpoint. ``signal`` is the signal's number."""

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
