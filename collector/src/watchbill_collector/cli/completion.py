"""`watchbill completion`: how a shell learns the commands."""

import click

LINES = {
    "bash": 'eval "$(_WATCHBILL_COMPLETE=bash_source watchbill)"',
    "zsh": 'eval "$(_WATCHBILL_COMPLETE=zsh_source watchbill)"',
    "fish": "_WATCHBILL_COMPLETE=fish_source watchbill | source",
}


@click.command()
@click.argument("shell", type=click.Choice(list(LINES)))
def completion(shell: str) -> None:
    """Print the line that switches completion on; put it into your shell's start file."""
    click.echo(LINES[shell])
