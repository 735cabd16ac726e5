"""Voxels of a volume node as arrays in the file's order, and where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy


def array_of(volume: Any) -> NDArray[Any]:
    """The voxels `(I, J, K)` of a volume node, in the order of the file's axes: a view of its memory."""
    image = volume.GetImageData()
    scalars = vtk_to_numpy(image.GetPointData().GetScalars())
    array: NDArray[Any] = scalars.reshape(image.GetDimensions(), order="F")
    return array


def put_array(volume: Any, array: NDArray[Any], like: Any) -> None:
    """Give a volume node voxels `(I, J, K)` of its own, on the grid of the node `like`."""
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape)
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(order="F"), deep=True))
    volume.SetAndObserveImageData(image)
    volume.CopyOrientation(like)


def ijk_to_ras(volume: Any) -> NDArray[Any]:
    """`(4, 4)`: voxel index to RAS mm."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
