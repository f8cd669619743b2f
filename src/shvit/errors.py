"""Every error that is the user's to mend: the command line prints them as one line, any other as a fault of ours."""


class ShvitError(Exception):
    """Base of all of them."""


class ArgumentError(ShvitError, ValueError):
    """An argument or an option has a value that is not supported; the message names it and what was expected."""


class MissingDependencyError(ShvitError, ImportError):
    """A feature needs a package that is not installed; the message says which command installs it."""


class CacheError(ShvitError, OSError):
    """There is no folder for what is kept between runs; the message says how to name one."""


class ImageError(ShvitError, ValueError):
    """An input is not an image that can be used; the message names it and says why."""


class ImageTypeError(ShvitError, TypeError):
    """What was given for images is none, nor several in an order; the message names its type and those accepted."""


class VideoError(ShvitError, ValueError):
    """A video cannot be used, or only in part; the message names it and says why, and at what time."""


class ModelFileError(ShvitError, ValueError):
    """A model file cannot be used; the message names it and says why."""


class ModelOutputError(ShvitError, RuntimeError):
    """A model's graph fails on its input, or returns what cannot be probabilities; the message names the model file."""


class CheckpointError(ShvitError, ValueError):
    """Weights cannot be read, or are not this network's; the message names the file and the tensor."""


class HubError(CheckpointError):
    """A published network cannot be fetched, or what came is not what was promised; the message names the repository.

    What to do is said too.
    """


class DataError(ShvitError, ValueError):
    """A dataset cannot be used; the message names it and says what was expected."""


class ExportError(ShvitError, RuntimeError):
    """An export failed its verification or could not be written; no file is left."""


class TrainingError(ShvitError, RuntimeError):
    """A run cannot go on; the message says where it stood and which checkpoint to go on from."""


class BatchError(ShvitError, RuntimeError):
    """A batch run cannot start or go on; the message says what is finished and how to go on."""


class ServerError(ShvitError, RuntimeError):
    """A server cannot be reached or refuses; the message names it and says what it answered."""


def check_positive(name: str, value: float) -> None:
    """Raises: ArgumentError: it is zero, negative or infinite."""
    if not 0 < value < float("inf"):
        raise ArgumentError(f"{name}: expected a positive number, got {value}")
