"""Sequence numbers on disk: what is saved is found again, a cut write costs one save, a lock keeps others out."""

import os
import subprocess
import sys

import pytest

from kfix_md.config import ServiceSection
from kfix_md.errors import UsageError
from kfix_md.feed.service import Service
from kfix_md.session.store import SequenceStore
from kfix_md.session.types import SequenceNumbers
from tests.session.peer import NOON, SENDER, TARGET, Rig


def reopened(path):
    store = SequenceStore(path, "A", "B")
    try:
        return store.load()
    finally:
        store.close()


def test_nothing_saved_yet(tmp_path):
    assert reopened(tmp_path) is None


def test_saved_is_found_again(tmp_path):
    store = SequenceStore(tmp_path, "A", "B")
    for number in range(1, 50):
        store.save(number * 3, number, number * 10**9)
    store.close()
    assert reopened(tmp_path) == SequenceNumbers(147, 49, 49 * 10**9)


def test_identities_have_files_of_their_own(tmp_path):
    stores = [SequenceStore(tmp_path / "new", s, t, p) for s, t, p in [("A/x", "B", 1), ("A", "B", 1), ("A", "B", 2)]]
    for number, store in enumerate(stores, 1):
        store.save(number, number, 1)
    assert len({store.path for store in stores}) == 3
    assert [store.load().expected for store in stores] == [1, 2, 3]
    for store in stores:
        store.close()


@pytest.mark.parametrize("cut", range(0, 80, 3))
def test_a_damaged_record_leaves_the_one_before(tmp_path, cut):
    store = SequenceStore(tmp_path, "A", "B")
    store.save(10, 1, 1)
    store.save(11, 2, 2)
    store.close()
    data = bytearray(store.path.read_bytes())
    data[cut] ^= 0xFF
    store.path.write_bytes(data)
    assert reopened(tmp_path) in (SequenceNumbers(10, 1, 1), SequenceNumbers(11, 2, 2))


def test_noise_is_no_number(tmp_path):
    store = SequenceStore(tmp_path, "A", "B")
    store.close()
    store.path.write_bytes(os.urandom(500))
    assert reopened(tmp_path) is None


def test_unchanged_numbers_are_not_written_again(tmp_path):
    store = SequenceStore(tmp_path, "A", "B")
    store.save(5, 5, 1)
    before = store.path.read_bytes()
    store.save(5, 5, 2)
    assert store.path.read_bytes() == before
    store.close()


def test_the_session_asks_for_a_save_and_writes_nothing():
    rig = Rig(store=None).logon()
    assert rig.session.take_save(NOON) == SequenceNumbers(2, 2, NOON)
    assert rig.session.take_save(NOON + 1) is None
    rig.session.send("V", [(262, "1")], rig.now)
    assert rig.session.take_save(NOON + 2) == SequenceNumbers(2, 3, NOON + 2), "before the outbox is written"


def test_a_service_stores_its_numbers_before_the_bytes_leave(tmp_path):
    store = SequenceStore(tmp_path, SENDER, TARGET)
    section = ServiceSection(name="spot-l2", sender_comp_id=SENDER, target_comp_id=TARGET, symbols=["*"])
    service = Service(section, 0, store=store)
    service.connected(NOON)
    assert store.load() is None
    assert b"35=A" in service.output() and store.load() == SequenceNumbers(1, 2, NOON)
    store.close()


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot keep sequence numbers"):
        SequenceStore(tmp_path / "file", "A", "B")


def test_a_killed_process_leaves_its_numbers_and_no_lock(tmp_path):
    code = (
        "import os, signal, sys; from kfix_md.session.store import SequenceStore\n"
        "store = SequenceStore(sys.argv[1], 'A', 'B')\n"
        "for n in range(1, 1000): store.save(n, n, n)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert reopened(tmp_path) == SequenceNumbers(999, 999, 999)
