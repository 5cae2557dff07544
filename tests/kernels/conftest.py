"""The same tests on a GPU, where kernels are compiled, and without one, where Triton's interpreter runs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kernels.compare import float32_in_full
from tests.kernels.interpreter import INTERPRETED, SWITCH


@pytest.fixture(scope="package", autouse=True)
def _interpreter_where_there_is_no_gpu() -> Iterator[None]:
    """On while the tests of this folder run. They import kernels inside functions, which is then."""
    pytest.importorskip("triton", reason="the kernels need Triton: pip install 'sam-edge[gpu]'")
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            patch.setenv(SWITCH, "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # an interpreted kernel is thousands of tiny operations
        with float32_in_full():
            yield
        torch.set_num_threads(threads)


@pytest.fixture
def _empty_is_nan() -> Iterator[None]:
    """torch.empty gives NaN: what a kernel does not write is seen."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before
