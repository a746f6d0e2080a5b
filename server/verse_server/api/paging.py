"""Pages of lists in a query: `?after=ID&limit=20&order=asc`, read strictly.

Litestar would read numbers leniently and answer with an error of its own, so a handler takes texts
and hands them to `read_page`.
"""

from typing import Annotated, get_args

import msgspec
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import QueryParameter

from verse_server.api.errors import RequestError
from verse_server.state.pages import Order

_ORDERS = get_args(Order)

AfterQuery = Annotated[
    str | None, QueryParameter(name="after", description="Id of the last one of the page before.")
]
LimitQuery = Annotated[
    str | None,
    QueryParameter(
        name="limit",
        description="The most to give.",
        schema_extra={"type": OpenAPIType.INTEGER, "minimum": 1, "one_of": None},
    ),
]
OrderQuery = Annotated[
    str | None,
    QueryParameter(
        name="order",
        description="By time of creation; the newest first unless told otherwise.",
        schema_extra={"type": OpenAPIType.STRING, "enum": list(_ORDERS), "one_of": None},
    ),
]


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What part of a list is wanted."""

    after: str | None
    limit: int
    order: Order = "desc"


def read_page(
    after: str | None,
    limit: str | None,
    order: str | None = None,
    *,
    default_limit: int,
    max_limit: int,
) -> PageQuery:
    """Read a query.

    Args:
        after: As it was sent, if it was, like the others.
        limit: A whole number.
        order: `asc` or `desc`.
        default_limit: Where none was sent.
        max_limit: The most that may be asked for.

    Raises:
        RequestError: 400, the limit is no such number, or the order no order.
    """
    if order not in (None, *_ORDERS):
        raise RequestError("'order' must be 'asc' or 'desc'.", param="order")
    return PageQuery(
        after=after,
        limit=default_limit if limit is None else _limit(limit, max_limit),
        order="asc" if order == "asc" else "desc",
    )


def _limit(value: str, max_limit: int) -> int:
    digits = value if value.isascii() and value.isdigit() and len(value) <= 9 else "0"
    if not 1 <= int(digits) <= max_limit:
        raise RequestError(f"'limit' must be a whole number from 1 to {max_limit}.", param="limit")
    return int(digits)
