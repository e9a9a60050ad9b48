import io

from kestrel_protocols.wsgi.file_wrapper import FileWrapper


class Endless:
    """A file without an end, and without `close`."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def read(self, size: int) -> bytes:
        self.asked.append(size)
        return b"x" * size


def test_it_yields_what_is_left_of_the_file() -> None:
    file = io.BytesIO(b"skipped" + b"x" * 100_000)
    file.seek(7)
    assert [len(block) for block in FileWrapper(file)] == [65536, 34464]
    assert list(FileWrapper(file)) == []


def test_a_small_block_is_made_larger_and_a_large_one_is_kept() -> None:
    file = Endless()
    next(FileWrapper(file, 8192))
    next(FileWrapper(file, 1 << 20))
    assert file.asked == [65536, 1 << 20]


def test_closing_it_closes_the_file() -> None:
    file = io.BytesIO(b"")
    FileWrapper(file).close()
    assert file.closed


def test_a_file_that_cannot_be_closed_makes_one_that_cannot() -> None:
    assert not hasattr(FileWrapper(Endless()), "close")
