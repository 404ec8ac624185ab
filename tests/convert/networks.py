"""Small float networks and pictures, made up."""

import numpy as np
from numpy.typing import NDArray

from bitgear.convert.architectures import Architecture, architecture_for, customary_architecture
from bitgear.convert.float_model import FloatModel, Floats, fold_batch_norm, random_state
from bitgear.graph import Linear

CLASSES = 5


def tiny_state(name: str, multiplier: float = 0.125, seed: int = 0) -> dict[str, Floats]:
    """A state dict with an architecture's customary names, few channels, five classes and a lively batch norm."""
    architecture = customary_architecture(name, multiplier=multiplier)
    state = random_state(architecture, seed)
    rng = np.random.default_rng(seed)
    for key, tensor in state.items():
        if key.endswith(".running_var"):
            state[key] = rng.uniform(0.5, 2, tensor.shape).astype(np.float32)
        elif tensor.ndim == 1:
            state[key] = (tensor + rng.normal(0, 0.2, tensor.shape)).astype(np.float32)
    head = next(node.name for node in architecture.graph.nodes if isinstance(node, Linear))
    state[f"{head}.weight"] = state[f"{head}.weight"][:CLASSES]
    state[f"{head}.bias"] = state[f"{head}.bias"][:CLASSES]
    return state


def architecture_of(state: dict[str, Floats], side_px: int = 33) -> Architecture:
    return architecture_for(None, {key: tensor.shape for key, tensor in state.items()}, side_px)


def tiny_model(name: str, multiplier: float = 0.125, side_px: int = 33, seed: int = 0) -> FloatModel:
    state = tiny_state(name, multiplier, seed)
    return fold_batch_norm(architecture_of(state, side_px), state)


def pictures(count: int, side_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coarse patterns, uint8 (count, side_px, side_px, 3): noise alone would average out everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, -(-side_px // 8), -(-side_px // 8), 3))
    fine = rng.integers(-20, 21, (count, side_px, side_px, 3))
    grown = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :side_px, :side_px]
    return np.clip(grown + fine, 0, 255).astype(np.uint8)
