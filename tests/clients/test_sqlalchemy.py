"""SQLAlchemy, unchanged, through the endpoint: with psycopg and with asyncpg below it."""

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy import ForeignKey, MetaData, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from harness import Server

pytestmark = pytest.mark.parametrize("way", ["handoff", "freezing"], indirect=True, scope="module")


class Base(DeclarativeBase):
    """The tables of these tests."""


class Author(Base):
    __tablename__ = "author"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list["Book"]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def dialect(url: str, driver: str) -> str:
    """Answer the URL with the driver's name in it, as SQLAlchemy wants it."""
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


@pytest.fixture
def engine(url: str) -> Iterator[sqlalchemy.Engine]:
    """SQLAlchemy's engine, with no session open yet."""
    made = sqlalchemy.create_engine(dialect(url, "psycopg"))
    yield made
    made.dispose()


def test_objects_are_found_as_they_were_stored(engine: sqlalchemy.Engine) -> None:
    Base.metadata.create_all(engine)
    try:
        with Session(engine) as session:
            session.add(Author(name="Božena", books=[Book(title=f"Part {n}") for n in range(100)]))
            session.commit()
        with Session(engine) as session:
            author = session.scalars(select(Author)).one()
            assert (author.name, len(author.books)) == ("Božena", 100)
            assert session.scalar(select(func.count()).select_from(Book)) == 100
    finally:
        Base.metadata.drop_all(engine)


def test_tables_are_reflected(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE reflected (id serial PRIMARY KEY, price numeric(10, 2) NOT NULL)"))
    metadata = MetaData()
    metadata.reflect(engine, only=["reflected"])
    assert [column.name for column in metadata.tables["reflected"].columns] == ["id", "price"]


def test_result_of_100_megabytes_arrives_whole_when_it_is_streamed(engine: sqlalchemy.Engine) -> None:
    with engine.connect().execution_options(yield_per=1000) as connection:
        result = connection.execute(text("SELECT repeat('x', 10000) FROM generate_series(1, 10000)"))
        assert sum(len(value) for value in result.scalars()) == 100_000_000


def test_rows_are_the_same_when_copied_in_and_out(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE t (n int)"))
        cursor = connection.connection.cursor()
        with cursor.copy("COPY t FROM STDIN") as copy:
            for n in range(1000):
                copy.write_row((n,))
        with cursor.copy("COPY t TO STDOUT") as copy:
            assert [int(row[0]) for row in copy.rows()] == list(range(1000))


def test_pool_goes_on_when_its_cluster_was_paused_in_between(server: Server) -> None:
    server.run("create", "pooled")
    engine = sqlalchemy.create_engine(dialect(server.url("pooled"), "psycopg"), pool_pre_ping=True)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    server.run("pause", "pooled", "--force")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()
    server.run("delete", "pooled", "--yes")


async def test_asynchronous_engine_runs_prepared_statements(url: str) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio part is not installed: sqlalchemy[asyncio]")
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(dialect(url, "asyncpg"))
    async with engine.begin() as connection:
        for n in range(20):
            assert await connection.scalar(text("SELECT CAST(:n AS int) + 1"), {"n": n}) == n + 1
    await engine.dispose()
