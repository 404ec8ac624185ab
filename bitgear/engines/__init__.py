"""Engines run a master at a width. All of them give the integers of :mod:`bitgear.reference`."""

from bitgear.engines.base import DerivedModel, Engine
from bitgear.engines.cache import CacheStats, ModelCache
from bitgear.engines.registry import ENGINE_NAMES, create_engine

__all__ = ["ENGINE_NAMES", "CacheStats", "DerivedModel", "Engine", "ModelCache", "create_engine"]
