"""SQLAlchemy, unchanged, through the endpoint: with PyMySQL, and with asyncmy and aiomysql, below it."""

from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest
import sqlalchemy
from sqlalchemy import ForeignKey, MetaData, String, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from clients.mariadb.shop import Shop

pytestmark = pytest.mark.parametrize("way", ["handoff", "freezing"], indirect=True, scope="session")


class Base(DeclarativeBase):
    """The tables of these tests."""


class Author(Base):
    __tablename__ = "author"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    books: Mapped[list["Book"]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(100))
    price: Mapped[Decimal]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def url(shop: Shop, driver: str) -> sqlalchemy.URL:
    """Answer the URL with the driver's name in it, as SQLAlchemy wants it."""
    return sqlalchemy.URL.create(
        f"mysql+{driver}",
        username=shop.user,
        password=shop.password,
        host=shop.host,
        port=shop.port,
        database=shop.database,
        query={"charset": "utf8mb4"},
    )


@pytest.fixture(params=["mysql", "mariadb"])
def engine(request: pytest.FixtureRequest, shop: Shop) -> Iterator[sqlalchemy.Engine]:
    """SQLAlchemy's engine, with no session open yet, by each of the names that it has for the dialect."""
    address = url(shop, "pymysql").set(drivername=f"{request.param}+pymysql")
    made = sqlalchemy.create_engine(address, connect_args={"ssl_disabled": True})
    yield made
    made.dispose()


def test_objects_are_found_as_they_were_stored(engine: sqlalchemy.Engine, settle: Callable[[], None]) -> None:
    Base.metadata.create_all(engine)
    try:
        with Session(engine) as session:
            books = [Book(title=f"Part {n} \N{HORSE}", price=Decimal(n)) for n in range(100)]
            session.add(Author(name="Božena", books=books))
            session.commit()
        settle()
        with Session(engine) as session:
            author = session.scalars(select(Author)).one()
            assert (author.name, len(author.books)) == ("Božena", 100)
            assert session.scalar(select(func.sum(Book.price)).where(Book.title.endswith("\N{HORSE}"))) == 4950
    finally:
        Base.metadata.drop_all(engine)


def test_tables_are_reflected(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE TABLE reflected"
                " (id SERIAL PRIMARY KEY, price DECIMAL(10, 2) NOT NULL, UNIQUE KEY by_price (price))"
            )
        )
    metadata = MetaData()
    metadata.reflect(engine, only=["reflected"])
    assert [column.name for column in metadata.tables["reflected"].columns] == ["id", "price"]
    assert [index["name"] for index in sqlalchemy.inspect(engine).get_indexes("reflected")][-1] == "by_price"


def test_rows_arrive_in_parts_when_they_are_streamed(engine: sqlalchemy.Engine) -> None:
    with engine.connect().execution_options(yield_per=100) as connection:
        result = connection.execute(text("SELECT REPEAT('x', 10000) FROM seq_1_to_1000"))
        assert sum(len(value) for value in result.scalars()) == 10_000_000


def test_savepoint_is_undone_within_a_transaction(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE OR REPLACE TABLE saved (n INT PRIMARY KEY)"))
        connection.execute(text("INSERT INTO saved VALUES (1)"))
        with pytest.raises(sqlalchemy.exc.IntegrityError), connection.begin_nested():
            connection.execute(text("INSERT INTO saved VALUES (2), (1)"))
        connection.execute(text("INSERT INTO saved VALUES (3)"))
    with engine.connect() as connection:
        assert list(connection.scalars(text("SELECT n FROM saved ORDER BY n"))) == [1, 3]


def test_pool_opens_a_session_anew_when_it_was_killed(
    shop: Shop, engine: sqlalchemy.Engine, settle: Callable[[], None]
) -> None:
    pooled = sqlalchemy.create_engine(
        url(shop, "pymysql"), pool_pre_ping=True, pool_size=1, connect_args={"ssl_disabled": True}
    )
    ask = text("SELECT CONNECTION_ID()")
    with pooled.connect() as connection:
        killed = connection.scalar(ask)
    with engine.connect() as other:
        other.execute(text(f"KILL CONNECTION {killed}"))
    settle()
    with pooled.connect() as connection:
        assert connection.scalar(ask) != killed
    pooled.dispose()


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
async def test_asynchronous_engine_runs_statements(shop: Shop, driver: str, settle: Callable[[], None]) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio part is not installed: sqlalchemy[asyncio]")
    pytest.importorskip(driver)
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url(shop, driver), pool_pre_ping=True)
    for n in range(3):
        async with engine.begin() as connection:
            assert await connection.scalar(text("SELECT CAST(:n AS SIGNED) + 1"), {"n": n}) == n + 1
        settle()
    await engine.dispose()
