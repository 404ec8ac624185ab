"""The models of one server by name: what each of them needs to be served, in one place where they can be exchanged."""

from collections.abc import Iterator
from typing import Literal

from bitgear.checkpoint import Master
from server.errors import UnknownModel
from server.ladder import Ladder
from server.refresh import Refresh

Times = Literal["assumed", "measuring", "measured"]
"""Where the times of a ladder come from; those that are still to be measured are alike for all precisions."""


class ServedModel:
    """A master with its ladder on this device. Requests hold on to theirs while a name gets another one.

    ``start``: the ladder while nothing is observed; ``times`` says where its times come from. ``refresh`` makes it
    follow the device; None if it was not measured.
    """

    def __init__(self, master: Master, start: Ladder, times: Times = "assumed") -> None:
        self.master = master
        self.start = start
        self.times: Times = times
        self.refresh: Refresh | None = None

    @property
    def ladder(self) -> Ladder:
        """The ladder as it is now. Its rungs stay, their times do not."""
        return self.start if self.refresh is None else self.refresh.ladder

    def error(self, precision: str) -> float:
        """Return what :meth:`~server.refresh.Refresh.error` does; 0 if nothing was measured."""
        return 0.0 if self.refresh is None else self.refresh.error(precision)

    @property
    def name(self) -> str:
        """The name under which it is served."""
        return self.master.name

    @property
    def version(self) -> str:
        """Which file it was read from: the first hexadecimal digits of its SHA-256."""
        return self.master.version


class Registry:
    """Served models by name, in the order in which they were added. One thread at a time changes it."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    def holds(self, model: ServedModel) -> bool:
        """Return whether it is this very model that is served under its name."""
        return self._models.get(model.name) is model

    @property
    def names(self) -> list[str]:
        """The names of all models."""
        return list(self._models)

    def get(self, name: str) -> ServedModel:
        """Return the model of that name; raise :class:`~server.errors.UnknownModel`."""
        model = self._models.get(name)
        if model is None:
            raise UnknownModel(name, self.names)
        return model

    def put(self, model: ServedModel) -> None:
        """Serve a model, in place of one of the same name if there is one."""
        self._models[model.name] = model

    def remove(self, name: str) -> ServedModel:
        """Serve a model no more and return it; raise :class:`~server.errors.UnknownModel`."""
        model = self.get(name)
        del self._models[name]
        return model
