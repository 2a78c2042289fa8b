"""`kfix mirror`: stores the journal of a feed on this machine, from a broker."""

from __future__ import annotations

from pathlib import Path

import click

from kfix_md.errors import UsageError
from kfix_md.log_output import set_up_logging


@click.command()
@click.argument("source", metavar="CONFIG|nats://HOST/FEED")
@click.option("--directory", type=click.Path(path_type=Path), help="The replica; in place of [mirror] directory.")
@click.option("--name", help="Of this mirror; in place of [mirror] name.")
@click.option("--publish", help="Publish the books in shared memory under this name.")
@click.option("--shm", type=click.Path(path_type=Path), help="Where to publish; $KFIX_SHM_DIR, else /dev/shm.")
@click.option("--json", "as_json", is_flag=True, help="Log lines as JSON objects.")
def command(
    source: str, directory: Path | None, name: str | None, publish: str | None, shm: Path | None, as_json: bool
) -> int:
    """Store the journal of a feed in a directory here, from the broker that it is shipped to.

    The replica is a journal: record, verify, follow and journal work on it. It runs until SIGTERM or Ctrl-C; a broker
    that is away is tried again for ever. Status 2 is for what a person has to change.
    """
    set_up_logging(as_json)
    from kfix_md.config import MirrorConfig, MirrorSection, load_mirror
    from kfix_md.journal.files import close_to_others
    from kfix_md.replication.run import mirror

    close_to_others()
    if "://" in source:
        url, _, feed = source.rpartition("/")
        if not feed or url.endswith("/"):
            raise UsageError(f"{source}: name the feed as well, as in nats://host:4222/default")
        try:
            config = MirrorConfig(mirror=MirrorSection(url=url, feed=feed))
        except ValueError:
            raise UsageError(f"{source}: must be like nats://host:4222/default") from None
    else:
        config = load_mirror(source)
    section = config.mirror
    section.directory = directory or section.directory
    section.name, section.publish = name or section.name, publish or section.publish
    return mirror(config, shm, as_json)
