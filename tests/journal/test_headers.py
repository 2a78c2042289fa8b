"""A damaged header of a segment costs no record, deletes nothing, and is reported once."""

import struct

import pytest

from kfix_md.errors import CaptureError
from kfix_md.journal import files as journal_files
from kfix_md.journal import layout
from kfix_md.journal.reader import FRAME, JournalReader, crc32c
from kfix_md.journal.writer import JournalWriter

NOON = 1_700_049_600_000_000_000  # 2023-11-15 12:00 UTC
SMALL = 1 << 16
RECORDS = 90
VERSION_AT, CRCS_AT = 8, 64


def make(path) -> list[bytes]:
    """A journal of two segments; the bodies of its records."""
    bodies = [b"%03d" % i * 300 for i in range(RECORDS)]
    with JournalWriter(path, segment_bytes=SMALL, first_number=1) as writer:
        for i, body in enumerate(bodies):
            writer.frame(0, NOON + i, body)
    assert len(journal_files.segments(path)) == 2
    return bodies


def read(path) -> tuple[list[bytes], list[str]]:
    """Bodies of the frames, and the damage that was reported; ends after a bounded number of steps."""
    reader, found, damage = JournalReader(path), [], []
    for _ in range(10 * RECORDS):
        try:
            record = reader.read()
        except CaptureError as error:
            damage.append(str(error))
            assert reader.resync() > 0
            continue
        if record is None:
            return found, damage
        if record[1] == FRAME:
            found.append(record[5])
    raise AssertionError("the reader does not come to an end")


def flip(path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def as_layout_1(path) -> None:
    """Make segments look as the first layout had them."""
    for each in journal_files.segments(path).values():
        with open(each, "r+b") as file:
            file.seek(VERSION_AT)
            file.write(struct.pack("<I", 1))
            file.seek(CRCS_AT)
            file.write(bytes(12))


@pytest.mark.parametrize("number", [1, 2])
def test_every_flipped_bit_of_a_header(tmp_path, number):
    bodies = make(tmp_path)
    path = journal_files.segments(tmp_path)[number]
    used = CRCS_AT + 12  # the rest is spare
    for bit in range(8 * used):
        flip(path, bit)
        found, damage = read(tmp_path)
        assert found == bodies, f"bit {bit}"
        assert len(damage) == 1 and path.name in damage[0], f"bit {bit}: {damage}"
        flip(path, bit)
    assert read(tmp_path) == (bodies, [])


def test_a_header_of_a_later_layout_is_named():
    head = bytearray(layout.new_header(7, SMALL, 20_000))
    struct.pack_into("<I", head, VERSION_AT, layout.VERSION + 1)
    struct.pack_into("<I", head, CRCS_AT, crc32c(head[48:CRCS_AT], crc32c(head[:32])))
    assert layout.parse_header(head, 7)[-1] == f"is of layout {layout.VERSION + 1}, newer than {layout.VERSION}"


@pytest.mark.parametrize(
    ("at", "value", "fault"),
    [
        (0, b"X", "is not a journal segment"),
        (16, b"\x08", "does not match its checksum or its name"),
        (32, b"\xff\xff\xff\xff", "has a damaged session date"),
        (layout.SEALED_END_AT, b"\x08", "has a damaged end"),
        (layout.SEALED_END_AT, (1 << 40).to_bytes(8, "little"), "has a damaged end"),
    ],
)
def test_a_header_without_checksums_is_checked_by_its_values(at, value, fault):
    head = bytearray(layout.new_header(7, SMALL, 20_000))
    struct.pack_into("<I", head, VERSION_AT, 1)
    head[CRCS_AT : CRCS_AT + 12] = bytes(12)
    assert layout.parse_header(head, 7)[-1] == ""
    head[at : at + len(value)] = value
    assert layout.parse_header(head, 7)[-1] == fault


@pytest.mark.parametrize("old", [False, True])
def test_a_segment_under_another_number_is_damage(tmp_path, old):
    make(tmp_path)
    if old:
        as_layout_1(tmp_path)
    path = journal_files.segments(tmp_path)[2]
    renamed = path.rename(path.with_name(path.name.replace("0000000002", "0000000003")))
    assert "its name" in journal_files.info(renamed).fault


@pytest.mark.parametrize("field", [0, VERSION_AT, 16, 32, layout.SEALED_END_AT, CRCS_AT, CRCS_AT + 4, CRCS_AT + 8])
def test_the_next_start_deletes_nothing_and_goes_on(tmp_path, field):
    bodies = make(tmp_path)
    path = journal_files.segments(tmp_path)[2]
    flip(path, 8 * field + 1)
    with JournalWriter(tmp_path, segment_bytes=SMALL) as writer:
        writer.frame(0, NOON + RECORDS, b"again")
        assert writer.position >> 32 == 3
    assert read(tmp_path)[0] == [*bodies, b"again"]


def test_journals_of_the_first_layout_are_read(tmp_path):
    bodies = make(tmp_path)
    as_layout_1(tmp_path)
    assert read(tmp_path) == (bodies, [])
    path = journal_files.segments(tmp_path)[2]
    with open(path, "r+b") as file:  # its writer died
        file.seek(layout.SEALED_END_AT)
        file.write(bytes(8))
    with JournalWriter(tmp_path, segment_bytes=SMALL) as writer:
        assert writer.recovered is not None and writer.recovered["damaged_bytes"] == 0
        writer.frame(0, NOON + RECORDS, b"again")
    assert read(tmp_path) == ([*bodies, b"again"], [])


def test_a_segment_without_its_end_is_read_to_its_last_record(tmp_path):
    """Records go on in a later segment: no reader waits for more in this one."""
    bodies = make(tmp_path)
    with open(journal_files.segments(tmp_path)[1], "r+b") as file:
        file.seek(layout.SEALED_END_AT)
        file.write(bytes(8))
    assert read(tmp_path)[0] == bodies


def test_a_record_in_the_place_of_another_is_damage(tmp_path):
    """Its checksum is right, and it knows where it belongs."""
    bodies = make(tmp_path)
    at = [record[0] & 0xFFFFFFFF for record in JournalReader(tmp_path)][:5]
    path = journal_files.segments(tmp_path)[1]
    data = bytearray(path.read_bytes())
    data[at[3] : at[4]] = data[at[1] : at[2]]
    path.write_bytes(data)
    found, damage = read(tmp_path)
    assert found == bodies[:3] + bodies[4:] and len(damage) == 1


def test_a_segment_cut_off_while_it_is_read_is_no_crash(tmp_path):
    bodies = make(tmp_path)
    reader = JournalReader(tmp_path)
    assert reader.read()[5] == bodies[0]
    with open(journal_files.segments(tmp_path)[1], "r+b") as file:
        file.truncate(4096)
    later = JournalReader(tmp_path, reader.position)
    found = []
    for _ in range(10 * RECORDS):
        try:
            record = later.read()
        except CaptureError:
            assert later.resync() > 0
            continue
        if record is None:
            break
        found.append(record[5])
    assert found[-1] == bodies[-1] and len(found) < RECORDS


def test_a_compressed_segment_that_is_damaged_is_stepped_over(tmp_path):
    bodies = make(tmp_path)
    path = journal_files.compress(journal_files.segments(tmp_path)[1])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    found, damage = read(tmp_path)
    assert damage and found[-1] == bodies[-1]
