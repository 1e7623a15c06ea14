"""Images that were left out because they cannot be read: said, and written down."""

from __future__ import annotations

from strongticket.data import ImageData

from . import console
from .run_folder import RunFolder

_NAMED = 3
_WRITTEN_DOWN = 1000


class Omissions:
    """Tells of the images of ``data`` that were left out, whenever there are more of them than it told of.

    With a ``run`` it writes down in ``environment.json`` how many they are, which, and why.
    """

    def __init__(self, data: ImageData, run: RunFolder | None = None) -> None:
        self._skipped, self._run = data.skipped, run
        self._told = 0

    def tell(self) -> None:
        """Tell, if there is something to tell."""
        count = len(self._skipped)
        if count == self._told:
            return
        self._told = count
        names = ", ".join(list(self._skipped)[:_NAMED]) + (f" and {count - _NAMED} more" if count > _NAMED else "")
        images = "1 image that cannot be read is" if count == 1 else f"{count} images that cannot be read are"
        console.note(f"{images} left out: {names}")
        if self._run is not None:
            before = self._run.noted.get("skipped_images", {}).get("files", {})
            files = {**before, **self._skipped}
            written = dict(list(files.items())[:_WRITTEN_DOWN])
            self._run.note(skipped_images={"count": len(files), "files": written})
