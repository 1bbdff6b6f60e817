"""Scripts by which a shell completes commands, options and their values; everything else is a file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from hf_init._errors import HfInitError
from hf_init._options import Option, OutputOptions, option_group, options_of
from hf_init._text import closest
from hf_init.cli._commands import COMMANDS, Command
from hf_init.cli._values import option_names

SHELLS = ("bash", "zsh", "fish")

_BASH = """_hf_init() {{
    local words
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD - 1]}}" in
{values}
        *) case "${{COMP_WORDS[1]}}" in
{options}
        esac ;;
    esac
    [ "$COMP_CWORD" = 1 ] && words="{commands} --help --version"
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _hf_init hf-init"""


def completion_script(shell: str) -> str:
    """Return the script that a shell reads to complete the command line.

    Raises:
        HfInitError: it is for another shell than bash, zsh and fish.
    """
    if shell not in SHELLS:
        raise HfInitError(f"no completion for {shell!r}{closest(shell, SHELLS)}; there is one for {', '.join(SHELLS)}")
    if shell == "fish":
        return "\n".join(_fish_lines())
    return ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + _bash_script()


def _options(command: Command) -> Mapping[str, Option]:
    return options_of(*map(option_group, command.groups), OutputOptions)


def _bash_script() -> str:
    options, values = [], []
    for command in COMMANDS:
        described = _options(command)
        names = " ".join(long for name, each in described.items() for long in option_names(name, each))
        options.append(f'            {command.name}) words="{names} --help" ;;')
        values += [
            f'        "{command.name} {long}") words="{" ".join(each.choices)}" ;;'
            for name, each in described.items()
            if each.choices
            for long in option_names(name, each)
        ]
    commands = " ".join(command.name for command in COMMANDS)
    return _BASH.format(commands=commands, options="\n".join(options), values="\n".join(values))


def _fish_lines() -> Iterator[str]:
    yield from (
        f"complete -c hf-init -n __fish_use_subcommand -f -a {command.name} -d {shlex.quote(command.help)}"
        for command in COMMANDS
    )
    for command in COMMANDS:
        for name, each in _options(command).items():
            value = f" -x -a {shlex.quote(' '.join(each.choices))}" if each.choices else " -r" * (each.form != "flag")
            for long in option_names(name, each):
                seen = f"-n '__fish_seen_subcommand_from {command.name}'"
                yield f"complete -c hf-init {seen} -l {long[2:]}{value} -d {shlex.quote(each.help)}"
