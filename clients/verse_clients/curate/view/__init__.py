"""The windows of `verse curate`: widgets and bindings. What they mean is decided in `session`.

main_window                        one poem; panels, find_bar, reading and editing are its parts
pairs_window, statistics_window,   the windows beside it
dialogs
actions                            what every key does, in all of them
theme, looks, widgets, background  what they are made of
"""

import sys
import tkinter
from contextlib import suppress

from verse_clients.curate import Appearance, DisplayError
from verse_clients.curate.app import CurationApp
from verse_clients.curate.view.main_window import MainWindow

_SWITCH_SECONDS = 0.0005


def run(
    app: CurationApp, appearance: Appearance | None = None, type_percent: int | None = None
) -> int:
    """Open the window and stay until the poet closes it.

    Args:
        app: What to work on.
        appearance: Light or dark; as last time if None.
        type_percent: Size of the type; as last time if None.

    Returns:
        How many decisions never reached the disk.

    Raises:
        DisplayError: there is no screen.
    """
    try:
        root = tkinter.Tk(className="Verse")
    except tkinter.TclError as error:
        app.journal.close()
        raise DisplayError(
            f"verse curate needs a screen to open its window on ({error})."
        ) from error
    # Work in another thread, such as importing an SDK, must not hold up a key for long.
    sys.setswitchinterval(_SWITCH_SECONDS)
    window = MainWindow(
        root, app, appearance=appearance or app.state.appearance, type_percent=type_percent
    )
    with suppress(KeyboardInterrupt):
        root.mainloop()
    window.close_files()
    return app.journal.num_waiting
