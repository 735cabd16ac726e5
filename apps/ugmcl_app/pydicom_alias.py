"""Two import repairs that the stock host needs before its first line runs.

MONAI Label 0.8.5 imports ``pydicom_seg`` 0.4.1, which asks pydicom for a private module that pydicom 3
dropped, and it imports ``torchvision``, whose PyPI build does not load beside a CPU-only build of torch.
Both would stop *any* process that imports ``monailabel``, the stock ``python -m monailabel.main`` included,
so the repair cannot live in our own start-up code: a one-line ``.pth`` file in site-packages
(``import pydicom_alias``) runs this module when the interpreter starts. It therefore imports nothing but
``sys``; everything else happens lazily, only in a process that really asks for one of the two modules.

* ``pydicom._storage_sopclass_uids``: served as a module holding the ``*Storage`` UIDs, which pydicom 3 keeps
  in ``pydicom.uid`` (a pydicom that still has the private module never gets here).
* ``torchvision._meta_registrations``: registers shape functions for the operators ``nms`` and ``qnms`` even
  where torchvision's C++ extension, which declares them, could not be loaded. We declare the two signatures
  first, so that the pure Python rest of torchvision works; calling the operators still fails, and the host
  calls neither.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing alone costs 5 ms at every start of the interpreter; type checkers read it here
    from typing import Any

PYDICOM_MODULE = "pydicom._storage_sopclass_uids"
TORCHVISION_MODULE = "torchvision._meta_registrations"
_NMS_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _HostImportRepair:
    """A meta-path finder (https://docs.python.org/3/reference/import.html) for exactly two module names."""

    # A torch.library.Library unregisters its operators when it is collected, so it is kept here.
    declared_operators: "Any" = None

    @classmethod
    def find_spec(cls, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name == PYDICOM_MODULE:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, cls)
        if name == TORCHVISION_MODULE:
            cls._declare_missing_operators()
        return None  # every other module, and torchvision's own file, is found as usual

    @staticmethod
    def create_module(spec: "Any") -> None:
        return None

    @staticmethod
    def exec_module(module: "Any") -> None:
        import pydicom.uid

        uids = {name: uid for name, uid in vars(pydicom.uid).items() if name.endswith("Storage")}
        vars(module).update(uids)

    @classmethod
    def _declare_missing_operators(cls) -> None:
        # torchvision imports its extension module before this one: it knows whether the C++ part loaded.
        extension = sys.modules.get("torchvision.extension")
        if extension is None or extension._has_ops() or cls.declared_operators is not None:
            return
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                library.define(operator + _NMS_SIGNATURE)
        cls.declared_operators = library


def install() -> None:
    """Put the repair on the import path once; further calls change nothing."""
    if not any(getattr(finder, "__name__", "") == _HostImportRepair.__name__ for finder in sys.meta_path):
        # In front of the file finder, which would otherwise serve torchvision's module before we are asked.
        sys.meta_path.insert(0, _HostImportRepair)


install()
