"""Filters, search and order in one bar that is there only when it is wanted."""

from collections.abc import Callable, Mapping, Sequence
from tkinter import Misc, StringVar, ttk
from typing import Any, cast

from verse.records import OrderName
from verse_clients.curate.queue import Filter
from verse_clients.curate.view.widgets import Flow, Hint
from verse_clients.decisions.sources import Item

_STATES = {
    "All poems": "all", "Undecided": "open", "Accepted": "accepted", "Edited": "edited",
    "Rejected": "rejected", "Skipped": "skipped", "With stars": "starred",
}  # fmt: skip
_FLAGS = {
    "Any": "all", "Near-duplicates": "near", "Copies": "copy", "Cut off": "cut",
    "Thinking": "thought",
}  # fmt: skip
_ORDERS = {
    "Shuffled": "shuffle", "As in the file": "file", "By score": "score",
    "By disagreement": "disagreement", "By theme": "theme", "Active mix": "active",
}  # fmt: skip
_EVERY = "Any"


class FindBar(ttk.Frame):
    """Calls back with the filter and order the poet chose."""

    def __init__(
        self,
        master: Misc,
        on_filter: Callable[[Filter], None],
        on_order: Callable[[OrderName], None],
        on_close: Callable[[], None],
    ) -> None:
        """Make the bar; `offer` fills its lists."""
        super().__init__(master)
        self._on_filter, self._on_order, self._on_close = on_filter, on_order, on_close
        self._row = Flow(self, "center", gap=10)
        self._row.pack(fill="x", padx=16, pady=6)
        self._vars: dict[str, StringVar] = {}
        self._boxes: dict[str, ttk.Combobox] = {}
        self._search = self._field("Search")
        for label, choices in (
            ("Show", list(_STATES)), ("Theme", [_EVERY]), ("Adapter", [_EVERY]),
            ("Flag", list(_FLAGS)),
        ):  # fmt: skip
            self._box(label, choices, self._filter_changed)
        self._box("Order", list(_ORDERS), self._order_changed)
        self._button("Show all", self._show_all, "Remove all filters.")
        self._button("Close (Esc)", on_close, "Back to the poem; the filter stays.")

    def offer(
        self, items: Sequence[Item], filter_: Filter, order: OrderName, *, with_adapters: bool
    ) -> None:
        """Show what can be chosen and what is; adapters only if they need not be hidden."""
        themes = list(dict.fromkeys(item.candidate.theme for item in items))
        adapters = sorted({item.adapter for item in items}) if with_adapters else []
        self._boxes["Adapter"].state(["!disabled"] if with_adapters else ["disabled"])
        self._boxes["Theme"].configure(values=[_EVERY, *themes])
        self._boxes["Adapter"].configure(values=[_EVERY, *adapters])
        self._vars["Show"].set(_name(_STATES, filter_.state))
        self._vars["Flag"].set(_name(_FLAGS, filter_.flag))
        self._vars["Order"].set(_name(_ORDERS, order))
        self._vars["Theme"].set(filter_.theme or _EVERY)
        self._vars["Adapter"].set(filter_.adapter or _EVERY)
        if self._vars["Search"].get() != filter_.search:
            self._vars["Search"].set(filter_.search)

    def focus_search(self) -> None:
        """Put the cursor into the search."""
        self._search.focus_set()
        self._search.selection_range(0, "end")

    def _field(self, label: str) -> ttk.Entry:
        cell = self._cell(label)
        entry = ttk.Entry(cell, textvariable=self._vars[label], width=14, font="VerseUi")
        entry.pack(side="left")
        entry.bind("<KeyRelease>", lambda _: self._filter_changed())
        entry.bind("<Return>", lambda _: self._on_close())
        entry.bind("<Escape>", lambda _: self._on_close())
        return entry

    def _box(self, label: str, choices: Sequence[str], changed: Callable[[], None]) -> None:
        cell = self._cell(label)
        width = max(10, *(len(choice) for choice in choices))
        box = ttk.Combobox(
            cell, textvariable=self._vars[label], values=list(choices), state="readonly",
            width=width, font="VerseUi",
        )  # fmt: skip
        box.pack(side="left")
        box.bind("<<ComboboxSelected>>", lambda _: self._chosen(box, changed))
        box.bind("<Escape>", lambda _: self._on_close())
        self._boxes[label] = box

    def _cell(self, label: str) -> ttk.Frame:
        cell = ttk.Frame(self._row)
        ttk.Label(cell, text=label, style="Quiet.TLabel").pack(side="left", padx=(0, 6))
        self._vars[label] = StringVar(self)
        self._row.add(cell)
        return cell

    def _button(self, text: str, command: Callable[[], None], hint: str) -> None:
        button = ttk.Button(self._row, text=text, command=command, style="Quiet.TButton")
        self._row.add(button)
        Hint(button, hint)

    def _chosen(self, box: ttk.Combobox, changed: Callable[[], None]) -> None:
        box.selection_clear()
        changed()

    def _filter_changed(self) -> None:
        self._on_filter(self._filter())

    def _order_changed(self) -> None:
        self._on_order(cast("OrderName", _ORDERS[self._vars["Order"].get()]))

    def _show_all(self) -> None:
        self._on_filter(Filter())

    def _filter(self) -> Filter:
        values = {label: var.get() for label, var in self._vars.items()}
        return Filter(
            state=cast("Any", _STATES[values["Show"]]),
            theme="" if values["Theme"] == _EVERY else values["Theme"],
            adapter="" if values["Adapter"] == _EVERY else values["Adapter"],
            flag=cast("Any", _FLAGS[values["Flag"]]),
            search=values["Search"],
        )


def _name(names: Mapping[str, str], value: str) -> str:
    return next(name for name, known in names.items() if known == value)
