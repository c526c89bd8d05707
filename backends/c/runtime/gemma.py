"""The model from Python, with ctypes alone. Run `make` first.

    from gemma import Gemma
    with Gemma() as gemma:
        print(list(gemma.generate([2, 651, 8203], max_tokens=20)))
"""
import ctypes
import os

_here = os.path.dirname(os.path.abspath(__file__))


class _Options(ctypes.Structure):
@cpu
    _fields_ = [("threads", ctypes.c_int), ("pin", ctypes.c_int), ("capacity", ctypes.c_int), ("skip_check", ctypes.c_int)]
@gpu
    _fields_ = [("device", ctypes.c_int), ("capacity", ctypes.c_int), ("skip_check", ctypes.c_int)]
@end


class _Sampling(ctypes.Structure):
    _fields_ = [("temperature", ctypes.c_float), ("top_k", ctypes.c_int), ("top_p", ctypes.c_float)]


def _load():
    lib = ctypes.CDLL(os.path.join(_here, "libgemma.so"))
    ids = ctypes.POINTER(ctypes.c_int32)
    floats = ctypes.POINTER(ctypes.c_float)
    model = ctypes.c_void_p
    signatures = {
        "gemma_create": (model, [ctypes.c_char_p, ctypes.POINTER(_Options)]),
        "gemma_free": (None, [model]),
        "gemma_error": (ctypes.c_char_p, [model]),
        "gemma_prefill": (ctypes.c_int, [model, ids, ctypes.c_size_t]),
        "gemma_decode": (ctypes.c_int, [model, ctypes.c_int32]),
        "gemma_score": (ctypes.c_int, [model, ids, ctypes.c_size_t, floats]),
        "gemma_logits": (floats, [model]),
        "gemma_sample": (ctypes.c_int32, [model, _Sampling]),
        "gemma_seed": (None, [model, ctypes.c_uint32]),
        "gemma_reset": (None, [model]),
        "gemma_vocab": (ctypes.c_int, []),
        "gemma_context": (ctypes.c_int, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class GemmaError(Exception):
    pass


class Gemma:
    """One text at a time. Feeding goes on after what was fed before, until `reset`."""

@cpu
    def __init__(self, weights=None, threads=0, capacity=0, skip_check=False, pin=False):
@gpu
    def __init__(self, weights=None, device=0, capacity=0, skip_check=False):
@end
        self._lib = _load()
        path = weights or os.path.join(_here, "model.safetensors")
@cpu
        options = _Options(threads, int(pin), capacity, int(skip_check))
@gpu
        options = _Options(device, capacity, int(skip_check))
@end
        self._model = self._lib.gemma_create(os.fsencode(path), ctypes.byref(options))
        if not self._model:
            raise GemmaError(self._lib.gemma_error(None).decode())
        self.vocab = self._lib.gemma_vocab()
        self.context = self._lib.gemma_context()

    def _check(self, status):
        if status:
            raise GemmaError(self._lib.gemma_error(self._model).decode())

    def prefill(self, ids):
        """Feeds token ids."""
        self._check(self._lib.gemma_prefill(self._model, (ctypes.c_int32 * len(ids))(*ids), len(ids)))

    def score(self, ids):
        """Feeds token ids and gives the scores after each: len(ids) lists of `vocab` floats."""
        out = (ctypes.c_float * (len(ids) * self.vocab))()
        self._check(self._lib.gemma_score(self._model, (ctypes.c_int32 * len(ids))(*ids), len(ids), out))
        return [out[i * self.vocab : (i + 1) * self.vocab] for i in range(len(ids))]

    def logits(self):
        """The scores for the next token."""
        scores = self._lib.gemma_logits(self._model)
        if not scores:
            raise GemmaError("nothing was fed yet")
        return scores[: self.vocab]

    def generate(self, ids, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, seed=None, stop=()):
        """Feeds ids, then yields one token id after another."""
        if seed is not None:
            self._lib.gemma_seed(self._model, seed)
        self.prefill(ids)
        for n in range(max_tokens):
            token = self._lib.gemma_sample(self._model, _Sampling(temperature, top_k, top_p))
            if token in stop:
                return
            yield token
            if n + 1 < max_tokens:
                self._check(self._lib.gemma_decode(self._model, token))

    def reset(self):
        self._lib.gemma_reset(self._model)

    def close(self):
        if self._model:
            self._lib.gemma_free(self._model)
            self._model = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
