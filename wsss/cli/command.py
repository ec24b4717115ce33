"""What every command has in common."""


def add_command(commands, name, action, **texts):
    """Add a command with what all of them have."""
    command = commands.add_parser(name, **texts)
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(action=action)
    return command
