"""What the commands for trained models have in common on their command lines."""

import argparse


def parser_of(command: str, doc: str | None) -> argparse.ArgumentParser:
    """With the run, and which of its weights. `doc` is the text of --help."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"lbtrain {command}", description=doc, formatter_class=as_written)
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", help="a run directory, or a checkpoint file")
    text = "the weights of the last step, where the run also kept an average of them"
    parser.add_argument("--raw-weights", action="store_true", help=text)
    return parser
