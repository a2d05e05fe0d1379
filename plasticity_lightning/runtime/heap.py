"""Keep freed memory in the process, which makes training on the CPU with large activations faster.

glibc takes allocations above its mmap threshold, at most 32 MB, from the system one by one and gives them back when
they are freed, so every large activation costs page faults in every step. Told to use its heap for all sizes and not to trim it, it
reuses the pages. The process then keeps the most memory that it ever needed.
"""

import ctypes

__all__ = ["keep_heap"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_LARGEST = 2**31 - 1


def keep_heap() -> str:
    """Let glibc keep freed memory of any size, from now on in this process.

    Returns:
        What was done, or why nothing was: another C library has no such options.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version.restype = ctypes.c_char_p
        version = library.gnu_get_libc_version().decode()
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return "keep_heap: does nothing here, it needs the C library glibc"
    # mallopt returns 1 for success
    if mallopt(_M_MMAP_MAX, 0) != 1 or mallopt(_M_TRIM_THRESHOLD, _LARGEST) != 1:
        return f"keep_heap: does nothing here, glibc {version} refused the options"
    return f"keep_heap: glibc {version} keeps freed memory"
