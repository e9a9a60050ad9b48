"""Options in sections, each with a heading of its own in `kestrel --help`."""

import click

__all__ = ["SectionedCommand", "SectionedOption"]

_FIRST_SECTION = "Options"


class SectionedOption(click.Option):
    """An option that belongs to a section of the help."""

    section: str
    """The heading of that section."""


class SectionedCommand(click.Command):
    """Lists its options by section, in the order in which the sections come up."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all sections, that of ordinary options first."""
        sections: dict[str, list[tuple[str, str]]] = {_FIRST_SECTION: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                heading = _FIRST_SECTION
                if isinstance(parameter, SectionedOption):
                    heading = parameter.section
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)
