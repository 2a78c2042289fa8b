"""`kfix ship`: sends the journal of a feed to a broker."""

from __future__ import annotations

import click

from kfix_md.log_output import set_up_logging


@click.command()
@click.argument("config", type=click.Path())
@click.option("--once", is_flag=True, help="Ship what is there and end.")
@click.option("--takeover", is_flag=True, help="Replace the journal that the broker has of this feed.")
@click.option("--forget", is_flag=True, help="Keep the journal for mirrors no longer, and end.")
@click.option("--service", help="Only this one, where every service has a process and a journal of its own.")
@click.option("--json", "as_json", is_flag=True, help="Log lines as JSON objects.")
def command(config: str, once: bool, takeover: bool, forget: bool, service: str | None, as_json: bool) -> int:
    """Send the journal of CONFIG.toml to the broker of its [ship], from where that one's copy ends.

    Journal segments are kept until each mirror of [ship] mirrors has them on disk. It runs until SIGTERM or Ctrl-C; a
    broker that is away is tried again for ever. Status 2 is for what a person has to change.
    """
    set_up_logging(as_json)
    from kfix_md.config import load, service_config, service_names
    from kfix_md.feed.processes import supervise
    from kfix_md.journal.files import close_to_others
    from kfix_md.replication import run

    close_to_others()
    whole = load(config)
    several = whole.feed.processes != "one"
    if several and service is None and not (once or forget):
        return supervise(config, whole, "ship", ["--json"] if as_json else [])
    parts = [service_config(whole, name) for name in service_names(whole)] if several else [whole]
    for part in [service_config(whole, service)] if service else parts:
        if forget:
            run.forget(part)
        else:
            run.ship(part, once, takeover)
    return 0
