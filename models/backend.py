"""Loading Keras: quietly, on TensorFlow, with as many threads as the caller grants."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from fedssh.models.native import apart


def load_keras(threads: int = 0, computations: int = 1) -> ModuleType:
    """Import Keras with TensorFlow behind it and return it; later calls only return it.

    TensorFlow's own log lines are switched off, what its libraries say while they load goes to the debug log, and GPU
    memory is taken as needed instead of all at once.

    Args:
        threads: CPU threads for one computation; 0 leaves the choice to TensorFlow (all cores). Only the first call
            in a process can set it, because TensorFlow fixes its thread pools when it starts.
        computations: How many computations run at the same time, each in a Python thread of its own. With one thread
            each, every computation gives the same bits as alone.
    """
    global _started
    if not _started:
        os.environ["KERAS_BACKEND"] = "tensorflow"
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        logging.getLogger("absl").setLevel(logging.ERROR)
        with apart():
            _start(threads, computations)
        _started = True
    import keras

    return keras  # type: ignore[no-any-return]


def _start(threads: int, computations: int) -> None:
    """Load the libraries and let them find their devices, on a GPU also cuDNN: each speaks up at its first use."""
    with _absent("sklearn", "matplotlib"):
        import keras  # noqa: F401  (it loads TensorFlow as its backend)
    import tensorflow

    tensorflow.get_logger().setLevel(logging.ERROR)
    if threads:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(max(threads, computations))
    for gpu in tensorflow.config.list_physical_devices("GPU"):
        tensorflow.config.experimental.set_memory_growth(gpu, True)
    if tensorflow.config.list_logical_devices("GPU"):
        tensorflow.nn.conv2d(tensorflow.zeros((1, 3, 3, 1)), tensorflow.zeros((3, 3, 1, 1)), 1, "VALID").numpy()


@contextlib.contextmanager
def _absent(*packages: str) -> Iterator[None]:
    """Keep Keras from loading what it can do without.

    For wrappers and pictures that nobody here uses, it is a quarter of the time that it takes to load.
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def compiled(function: Callable[..., Any], signature: Sequence[Any] = ()) -> Callable[..., Any]:
    """A function over tensors as one TensorFlow graph, built now.

    Without AutoGraph: nothing here is Python control flow over tensors, and AutoGraph writes a source file per function
    into the temporary folder, where it stays when the process is killed.

    Args:
        function: What is traced, once.
        signature: A `TensorSpec` per argument.
    """
    import tensorflow

    traced = tensorflow.function(function, input_signature=signature, autograph=False)
    return traced.get_concrete_function()  # type: ignore[no-any-return]


_started = False
