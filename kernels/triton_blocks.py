"""What the attention kernels share: tiles of a head's width, and dot products with float32 accumulation.

A head's width is D0 + D1, two powers of two, so that 80 is computed as 64 + 16 and not as 128. Functions that take or
return two tiles ignore the second one where D1 is 0.
"""

import triton
import triton.language as tl

__all__ = ["LOG2_E", "dot", "dot_heads", "fill_heads", "load_heads", "store_heads"]

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_heads(ptr, positions, stride, inside, D0: tl.constexpr, D1: tl.constexpr):
    """Rows of a (positions, D0 + D1) matrix: (len(positions), D0) and (len(positions), D1); zeros outside."""
    rows = ptr + positions.to(tl.int64)[:, None] * stride
    first = tl.load(rows + tl.arange(0, D0)[None, :], mask=inside[:, None], other=0.0)
    if D1 > 0:  # noqa: SIM108
        second = tl.load(rows + D0 + tl.arange(0, D1)[None, :], mask=inside[:, None], other=0.0)
    else:
        second = first
    return first, second


@triton.jit
def fill_heads(first, second, inside, ptr, D0: tl.constexpr, D1: tl.constexpr):
    """The rows that are inside; the others become the vector (D0 + D1) at `ptr`."""
    first = tl.where(inside[:, None], first, tl.load(ptr + tl.arange(0, D0))[None, :])
    if D1 > 0:  # noqa: SIM108
        second = tl.where(inside[:, None], second, tl.load(ptr + D0 + tl.arange(0, D1))[None, :])
    else:
        second = first
    return first, second


@triton.jit
def store_heads(ptr, positions, stride, inside, first, second, D0: tl.constexpr, D1: tl.constexpr):
    """Undo `load_heads`, rounding to the dtype at `ptr`."""
    rows = ptr + positions.to(tl.int64)[:, None] * stride
    tl.store(rows + tl.arange(0, D0)[None, :], first.to(ptr.dtype.element_ty), mask=inside[:, None])
    if D1 > 0:
        tl.store(rows + D0 + tl.arange(0, D1)[None, :], second.to(ptr.dtype.element_ty), mask=inside[:, None])


@triton.jit
def dot(a, b, acc, IN_FLOAT32: tl.constexpr):
    """acc (M, N) float32 + a (M, K) @ b (K, N). "ieee": float32 operands are not shortened to tf32.

    IN_FLOAT32: Triton's interpreter does not know bfloat16 arithmetic. Converted first, the products are those of the
    matrix units, which are exact for 16-bit operands.
    """
    if IN_FLOAT32:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def dot_heads(a0, a1, b0, b1, D1: tl.constexpr, IN_FLOAT32: tl.constexpr):
    """a (M, D0 + D1) times b (N, D0 + D1) transposed -> (M, N) float32."""
    product = dot(a0, tl.trans(b0), tl.zeros((a0.shape[0], b0.shape[0]), tl.float32), IN_FLOAT32)
    if D1 > 0:
        product = dot(a1, tl.trans(b1), product, IN_FLOAT32)
    return product
