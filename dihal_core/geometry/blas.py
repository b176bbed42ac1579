"""Triangular BLAS and LAPACK routines that let other Python threads run.

`scipy.linalg.blas` holds the interpreter lock during a call, so two layers measured side by side as
threads would take turns. The same compiled routines are reached here through SciPy's documented
Cython interface and called by ctypes, which releases the lock.

Letters: N rows, D columns. A C-ordered (N, D) array is a Fortran (D, N) array, so nothing is copied.
Symmetric D x D results fill one triangle only: the upper one in C order (the lower one in Fortran's).
"""

import contextlib
import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
import threadpoolctl

from dihal_core.errors import NumericsError, ResourceError


def _routine(module: str, name: str) -> Callable[..., None]:
    capsule = importlib.import_module(f"scipy.linalg.{module}").__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = get_name(capsule)
    if b"(char *" not in signature or b"int *" not in signature or b"int64" in signature:
        raise ResourceError(
            f"scipy's {name} has the interface {signature.decode()!r}, expected 32-bit integer arguments; "
            "install the scipy version of constraints.txt"
        )
    arguments = [ctypes.c_void_p] * (signature.count(b",") + 1)
    return ctypes.CFUNCTYPE(None, *arguments)(get_pointer(capsule, signature))


_DSYRK = _routine("cython_blas", "dsyrk")
_DSYMV = _routine("cython_blas", "dsymv")
_TRSM = {np.dtype(np.float64): _routine("cython_blas", "dtrsm"), np.dtype(np.float32): _routine("cython_blas", "strsm")}
_DPOTRF = _routine("cython_lapack", "dpotrf")
_DPOTRI = _routine("cython_lapack", "dpotri")
_TRTRI = {
    np.dtype(np.float64): _routine("cython_lapack", "dtrtri"),
    np.dtype(np.float32): _routine("cython_lapack", "strtri"),
}
_REAL = {np.dtype(np.float64): ctypes.c_double, np.dtype(np.float32): ctypes.c_float}


def _int(value: int) -> object:
    return ctypes.byref(ctypes.c_int(value))


def _double(value: float) -> object:
    return ctypes.byref(ctypes.c_double(value))


def _require(array: np.ndarray, *dtypes: type) -> None:
    if array.dtype not in dtypes or not array.flags.c_contiguous:
        names = "/".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"got a {array.dtype} array with strides {array.strides}; pass C-contiguous {names}")


def syrk_columns(x_ND: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Return `scale * x^T x` (D, D), upper triangle in C order; the rest is zero."""
    _require(x_ND, np.float64)
    n, d = x_ND.shape
    out_DD = np.zeros((d, d))
    _DSYRK(
        b"L",
        b"N",
        _int(d),
        _int(n),
        _double(scale),
        x_ND.ctypes.data,
        _int(d),
        _double(0.0),
        out_DD.ctypes.data,
        _int(d),
    )
    return out_DD


def symv(a_DD: np.ndarray, v_D: np.ndarray) -> np.ndarray:
    """Return `a v` for a symmetric matrix of which only the upper triangle (C order) is read."""
    d = len(v_D)
    out_D = np.zeros(d)
    _DSYMV(
        b"L", _int(d), _double(1.0), a_DD.ctypes.data, _int(d), v_D.ctypes.data, _int(1), _double(0.0),
        out_D.ctypes.data, _int(1),
    )  # fmt: skip
    return out_D


def cholesky(a_DD: np.ndarray) -> np.ndarray:
    """Overwrite the upper triangle (C order) of `a` by R with R^T R = a, and return it.

    Raises
    ------
    NumericsError
        If `a` is not positive definite in float64.
    """
    _require(a_DD, np.float64)
    d, info = len(a_DD), ctypes.c_int(0)
    _DPOTRF(b"L", _int(d), a_DD.ctypes.data, _int(d), ctypes.byref(info))
    if info.value != 0:
        raise NumericsError(f"a {d} x {d} matrix is not positive definite at pivot {info.value}; raise the ridge")
    return a_DD


def inverse_from_cholesky(r_DD: np.ndarray) -> np.ndarray:
    """Overwrite R (of `cholesky`) by the inverse of R^T R; upper triangle in C order."""
    _require(r_DD, np.float64)
    d, info = len(r_DD), ctypes.c_int(0)
    _DPOTRI(b"L", _int(d), r_DD.ctypes.data, _int(d), ctypes.byref(info))
    return r_DD


def inverse_of_factor(r_DD: np.ndarray) -> np.ndarray:
    """Overwrite R (of `cholesky`, or rounded to float32) by R^-1; upper triangle in C order, the rest is left.

    Rows of R^-1 have the inner products of (R^T R)^-1.
    """
    _require(r_DD, np.float64, np.float32)
    d, info = len(r_DD), ctypes.c_int(0)
    _TRTRI[r_DD.dtype](b"L", b"N", _int(d), r_DD.ctypes.data, _int(d), ctypes.byref(info))
    return r_DD


def whiten_rows(r_DD: np.ndarray, x_ND: np.ndarray) -> np.ndarray:
    """Overwrite every row x of `x_ND` by R^-T x, so that |row|^2 = x^T (R^T R)^-1 x."""
    return _solve_rows(r_DD, x_ND, b"N")


def unwhiten_rows(r_DD: np.ndarray, x_ND: np.ndarray) -> np.ndarray:
    """Overwrite every row x of `x_ND` by R^-1 x: after `whiten_rows`, row x is (R^T R)^-1 x."""
    return _solve_rows(r_DD, x_ND, b"T")


def _solve_rows(r_DD: np.ndarray, x_ND: np.ndarray, transpose: bytes) -> np.ndarray:
    _require(x_ND, np.float64, np.float32)
    _require(r_DD, x_ND.dtype.type)
    n, d = x_ND.shape
    one = ctypes.byref(_REAL[x_ND.dtype](1.0))
    _TRSM[x_ND.dtype](
        b"L", b"L", transpose, b"N", _int(d), _int(n), one, r_DD.ctypes.data, _int(d), x_ND.ctypes.data, _int(d)
    )
    return x_ND


class _ThreadLimit:
    """One limit for all BLAS libraries of the process, shared by everyone who asks for the same number.

    OpenBLAS has one pool of threads per process: a layer that finishes first must not lift the limit of
    one that still runs, since results depend on it in the last bits. threadpoolctl lets only the thread
    that came first change the limit and ignores all others silently, so it is told to forget that
    thread, and the limit is read back.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holders, self.threads = 0, 0
        self.limits: threadpoolctl.threadpool_limits | None = None

    def acquire(self, threads: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.holders == 0 or self.threads == threads)
            if self.holders == 0:
                _forget_controlling_thread()
                self.limits = threadpoolctl.threadpool_limits(threads, user_api="blas")
                self.threads = threads
                found = {info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"}
                if max(found, default=threads) > threads:
                    raise ResourceError(
                        f"BLAS uses {max(found)} threads although {threads} were asked for; "
                        f"set OPENBLAS_NUM_THREADS={threads} (or MKL_NUM_THREADS) before starting"
                    )
            self.holders += 1

    def release(self) -> None:
        with self.changed:
            self.holders -= 1
            if self.holders == 0 and self.limits is not None:
                _forget_controlling_thread()
                self.limits.restore_original_limits()
                self.limits = None
            self.changed.notify_all()


def _forget_controlling_thread() -> None:
    controller = getattr(threadpoolctl, "OpenBLASController", None)
    if controller is not None and hasattr(controller, "clear_controlling_thread"):
        controller.clear_controlling_thread(force=True)


_LIMIT = _ThreadLimit()


@contextlib.contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """Run the block with `threads` BLAS threads; a concurrent block that wants another number waits."""
    _LIMIT.acquire(threads)
    try:
        yield
    finally:
        _LIMIT.release()
