"""compiled: student and teacher through `torch.compile` where that is asked for, as they are where it fails.

What is compiled are the parts of the network without random numbers: encoder, coarse and finest decoder. They
are tried in whole training steps before the first one counts, so that a compiler that fails, in a backward
pass too, costs time and nothing else.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from .devices import wait_for
from .network import DualTaskVNet
from .sampling import TwoStreamSampler
from .training_state import TrainingState, restore, snapshot
from .training_step import train_step

logger = logging.getLogger(__name__)

PARTS = ("encode", "decode_coarse", "decode_finest")
"""Methods of `DualTaskVNet` that are compiled."""
LONGEST_REASON = 400
"""Letters of a compiler's message that are logged: they can be pages long."""


def compile_where_asked(run: TrainingState, sampler: TwoStreamSampler) -> bool:
    """Compile the networks of a round if its configuration asks for it and it runs on a GPU.

    Returns:
        Whether they are compiled now.
    """
    if run.config.train.compile == "off" or torch.device(run.precision.device).type != "cuda":
        return False
    return compile_networks(run, sampler, "inductor")


def compile_networks(
    run: TrainingState, sampler: TwoStreamSampler, backend: str | Callable[..., Any]
) -> bool:
    """Compile student and teacher and try a step of each kind; everything else of the round stays as it was.

    Args:
        run: A round.
        sampler: Its patches.
        backend: As `torch.compile` takes it.

    Returns:
        False if that failed; a logged sentence then says why, and the networks run as they are.
    """
    before, began = copy.deepcopy(snapshot(run)), time.perf_counter()
    networks = (run.student, run.teacher.network)
    torch.compiler.reset()  # the networks of an earlier run would count towards the limit of variants
    try:
        for network in networks:
            for part in PARTS:
                plain = getattr(network, part)
                setattr(network, part, torch.compile(plain, backend=backend, dynamic=False))
        for step in (0, run.steps - 1):  # labeled patches alone, and every term
            run.step = step
            train_step(run, sampler)
        wait_for(run.precision.device)
    except Exception as error:  # compilers fail in many ways, and none of them is a reason not to train
        for network in networks:
            as_it_is(network)
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        sentence = "The networks could not be compiled (%s: %s); training goes on without."
        logger.warning(sentence, type(error).__name__, reason)
        return False
    finally:
        restore(run, before)
    logger.info("Compiled the networks in %.0f s.", time.perf_counter() - began)
    return True


def as_it_is(network: DualTaskVNet) -> None:
    """Take back what compiling did to a network."""
    for part in PARTS:
        network.__dict__.pop(part, None)
