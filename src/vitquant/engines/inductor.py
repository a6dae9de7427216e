"""PyTorch Inductor, ahead of time: a module becomes a shared library in a cache folder, weights included.

The library is made by `torch.export` and AOTInductor with freezing, for every batch size at once. It is a product of
this machine and this PyTorch, so it is no part of an artifact: it lies in `$VITQUANT_CACHE/compiled`, or
`~/.cache/vitquant/compiled`, under a digest of all that it depends on, and is made again where it is missing.

The library is called through its C interface. PyTorch's own Python loader keeps the interpreter locked while the
model runs, so that threads would wait for each other.
"""

import ctypes
import errno
import inspect
import logging
import os
import shutil
import warnings
import weakref
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from torch import Tensor, nn

from vitquant import cache, files
from vitquant.artifact import WEIGHTS_FILE, Artifact
from vitquant.errors import UnsupportedError

LIBRARY = "model.so"
PACKAGE = Path(__file__).parents[1]
BATCH = 8  # images of the batch that Inductor sees; the library takes any number

CONFIG: dict[str, Any] = {
    "freezing": True,  # weights are constants, laid out as the kernels like them
    "cpp.dynamic_threads": True,  # as many threads as the caller has set
    "aot_inductor.compile_wrapper_opt_level": "O0",  # it only calls the kernels; -O1 took 2 s more and gained nothing
}


def load(
    artifact: Artifact,
    module: Callable[[Artifact], nn.Module],
    packages: Sequence[str] = (),
    settings: Callable[[], dict[str, Any]] = dict,
) -> Callable[[Tensor], Tensor]:
    """The artifact's compiled function, float32 (N, 3, H, W) to float32 (N, width), for several threads at once.

    Args:
        module: gives the module to compile, in evaluation mode; called only if the cache lacks the library. Its output
            is a matrix, a row for each image.
        packages: whose versions the library depends on, beside PyTorch and timm.
        settings: gives Inductor's beyond `CONFIG`; called where `module` is.

    Raises:
        UnsupportedError: there is nothing in the cache and this machine cannot compile.
    """
    folder = cache_folder(artifact, module, packages)
    if not (folder / LIBRARY).is_file():
        _fill(folder, artifact, module, settings)
    return Library(files.private(files.private(folder) / LIBRARY))


def cache_folder(artifact: Artifact, module: Callable[[Artifact], nn.Module], packages: Sequence[str] = ()) -> Path:
    """Where the compiled library lies: named by the weights, the code, the versions and the CPU.

    Raises:
        VitquantError: the cache cannot be made.
    """
    spec = artifact.spec
    tools = [file for folder in ("models", "quantization") for file in sorted((PACKAGE / folder).glob("*.py"))]
    code = [Path(__file__), Path(str(inspect.getsourcefile(module))), *tools]
    depends = {
        "weights": files.sha256(artifact.path / WEIGHTS_FILE),
        "model": [
            *(spec.architecture, spec.preprocessing.crop, len(spec.classes), spec.pooling),
            *(spec.method, spec.options),
        ],
        "code": [files.sha256(file) for file in code],
        "versions": [torch.__version__, *(metadata.version(name) for name in ("timm", *packages))],
    }
    return cache.path(depends)


class Library:
    """A compiled library, loaded; calling it lets other Python threads run.

    Args:
        path: the shared library.

    Raises:
        UnsupportedError: it does not load here.
    """

    def __init__(self, path: Path) -> None:
        self._container = ctypes.c_void_p()
        runners = ctypes.c_size_t(os.cpu_count() or 1)  # calls that may run at once
        try:
            self._torch = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
            self._model = ctypes.CDLL(str(path))
            self._create = self._model.AOTInductorModelContainerCreateWithDevice
        except (OSError, AttributeError) as error:
            raise UnsupportedError(f"{path} does not load ({error}): delete {path.parent}") from None
        _check(self._create(ctypes.byref(self._container), runners, b"cpu", None))
        weakref.finalize(self, self._model.AOTInductorModelContainerDelete, self._container)
        _release_file_pages(path)

    def __call__(self, images: Tensor) -> Tensor:
        """Images, float32 (N, 3, H, W), to the module's output, float32 (N, width)."""
        images = images.contiguous()
        handle, result, target = self._view(images), ctypes.c_void_p(), ctypes.c_void_p()
        try:
            # the container takes over the input's handle, and gives the output's
            run, one = self._model.AOTInductorModelContainerRun, ctypes.c_size_t(1)
            _check(run(self._container, ctypes.byref(handle), one, ctypes.byref(result), one, None, None))
            width = ctypes.c_int64()
            _check(self._torch.aoti_torch_get_size(result, ctypes.c_int64(1), ctypes.byref(width)))
            outputs = torch.empty(len(images), width.value, dtype=torch.float32)
            target = self._view(outputs)
            _check(self._torch.aoti_torch_copy_(target, result, ctypes.c_int32(0)))
        finally:
            for owned in (result, target):
                if owned:
                    self._torch.aoti_torch_delete_tensor_object(owned)
        return outputs

    def _view(self, tensor: Tensor) -> ctypes.c_void_p:
        """A handle on the memory of a contiguous float32 tensor, for the C interface."""
        handle, dimensions = ctypes.c_void_p(), ctypes.c_int64 * tensor.ndim
        _check(
            self._torch.aoti_torch_create_tensor_from_blob(
                ctypes.c_void_p(tensor.data_ptr()),
                ctypes.c_int64(tensor.ndim),
                dimensions(*tensor.shape),
                dimensions(*tensor.stride()),
                ctypes.c_int64(0),
                ctypes.c_int32(self._torch.aoti_torch_dtype_float32()),
                ctypes.c_int32(self._torch.aoti_torch_device_type_cpu()),
                ctypes.c_int32(-1),
                ctypes.byref(handle),
            )
        )
        return handle


def _fill(
    folder: Path, artifact: Artifact, module: Callable[[Artifact], nn.Module], settings: Callable[[], dict[str, Any]]
) -> None:
    """Compile into the cache, unless another process does so first."""
    with cache.lock(folder):
        if (folder / LIBRARY).is_file():
            return
        _check_compiler()
        side = artifact.spec.preprocessing.crop
        with files.atomic(folder) as partial:
            partial.mkdir(mode=0o700)
            scratch = cache.for_inductor() / f"scratch-{folder.name}"  # `partial` may be nowhere that Inductor can be
            with files.atomic(scratch) as own:
                own.mkdir()
                library = compile_module(module(artifact), side, own, settings())
                shutil.move(library, partial / LIBRARY)
            (partial / LIBRARY).chmod(0o700)  # whatever the umask
            files.remove(scratch)


def compile_module(module: nn.Module, side: int, scratch: Path, settings: dict[str, Any]) -> Path:
    """Compile a module that takes float32 (N, 3, side, side) into a shared library somewhere under `scratch`.

    Args:
        settings: Inductor's beyond `CONFIG`.

    Raises:
        UnsupportedError: the C++ compiler or Inductor fails.
        OSError: the disk is full.
    """
    from torch._inductor import aot_compile
    from torch._inductor.exc import CppCompileError, InductorError

    images = torch.zeros(BATCH, 3, side, side)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            headers = cache.survives_a_command(Path(gettempdir()))  # they always lie there
            options = {
                **CONFIG,
                **settings,
                "aot_inductor.output_path": str(scratch),
                "aot_inductor.precompile_headers": headers,
            }
            library = aot_compile(program.module(check_guards=False), (images,), options=options)
    except CppCompileError as error:
        reason = next((line for line in str(error).splitlines() if "error" in line), "no message")
        raise UnsupportedError(f"the C++ compiler fails on what torch.compile writes: {reason.strip()}") from None
    except InductorError as error:
        inner = error.inner_exception
        if isinstance(inner, OSError) and inner.errno in (errno.ENOSPC, errno.EDQUOT):
            raise inner from None  # a full disk is no property of the recipe
        raise UnsupportedError(f"torch.compile fails: {str(error).splitlines()[0]}") from None
    return Path(str(library))


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UnsupportedError("torch.compile needs a C++ compiler: install g++, or set CXX to one") from None


def _check(error: int) -> None:
    if error:
        raise RuntimeError("the compiled model failed; its message is on standard error")


def _release_file_pages(library: Path) -> None:
    """Give back the file's pages of weights: the container has copied them, and they would count twice."""
    libc, page_out = ctypes.CDLL(None), 21  # MADV_PAGEOUT: what was written to stays
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, *_, name = line.split(maxsplit=5)
        if permissions == "r--p" and name == str(library).replace("\n", "\\012"):
            start, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), page_out)
