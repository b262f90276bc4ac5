import pytest

from meshd.state import Compacted, Table


def test_a_reader_resumes_after_the_revision_it_saw_last() -> None:
    table: Table[str, int] = Table()
    table.put(1, "a", 1)
    table.put(2, "b", 2)
    table.put(3, "a", 3)
    table.delete(4, "b")
    assert [tuple(change) for change in table.changes(1)] == [(3, "a", 3), (4, "b", None)]
    assert [tuple(change) for change in table.changes(4)] == []


def test_a_row_that_came_back_is_no_deletion() -> None:
    table: Table[str, int] = Table()
    table.put(1, "a", 1)
    table.delete(2, "a")
    table.put(3, "a", 5)
    assert [tuple(change) for change in table.changes(0)] == [(3, "a", 5)]


def test_a_reader_older_than_the_remembered_deletions_is_told_to_list_again() -> None:
    table: Table[int, int] = Table(remembered=2)
    for key in range(4):
        table.put(key + 1, key, key)
    for key in range(3):
        table.delete(key + 5, key)
    with pytest.raises(Compacted) as caught:
        table.changes(4)
    assert caught.value.floor == 5
    assert [change.key for change in table.changes(5)] == [1, 2]
