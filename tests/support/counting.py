"""Connectors whose driver counts the connections that are open, by host."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from asyncdbpool import DatabaseConnector, Driver
from asyncdbpool.drivers.sqlite3 import SQLite3Driver


class Counting(SQLite3Driver):
    """sqlite3 in memory for any host and database; it counts what is open."""

    host_keyword = "host"

    def __init__(self) -> None:
        super().__init__(sqlite3)
        self.asked: list[Mapping[str, Any]] = []
        self.open: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.most_in_all = 0
        self.refusing = False
        self._hosts: dict[int, str] = {}
        self._lock = threading.Lock()

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.refusing:
            raise ConnectionRefusedError("not today")
        raw = super().connect((":memory:",), {})
        with self._lock:
            host = self._hosts[id(raw)] = kwargs["host"]
            self.asked.append(kwargs)
            self.open[host] += 1
            self.most[host] = max(self.most[host], self.open[host])
            self.most_in_all = max(self.most_in_all, self.open.total())
        return raw

    def close(self, raw: Any) -> None:
        super().close(raw)
        with self._lock:
            self.open[self._hosts.pop(id(raw))] -= 1


def connector(driver: Driver, **options: Any) -> DatabaseConnector:
    entries: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "c": {}}
    return DatabaseConnector(sqlite3, entries, driver=driver, **options)
