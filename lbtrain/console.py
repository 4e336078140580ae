"""rich's console, whose user decides what a reader that is gone means."""

import rich.console


class Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError that rich has caught. rich would end the process here, with the exit
        code of an error (see lbtrain.output).
        """
        raise
