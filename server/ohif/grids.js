// Where voxels lie: the grid of a series as OHIF shows it, and values carried from one grid to another.

const subtract = (a, b) => a.map((value, axis) => value - b[axis]);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [
  a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0],
];

// Two grids are the same when no corner is further apart than this part of a voxel: DICOM rounds positions.
const TOLERANCE = 0.02;

/** The grid of a series: columns, rows, and slices in the order of its image ids. */
export function gridOfImages(imageIds, metaData) {
  const planes = imageIds.map((id) => metaData.get('imagePlaneModule', id));
  if (planes.some((plane) => !plane?.imagePositionPatient || !plane.rowCosines)) {
    throw new Error('The images of this series do not say where in the patient they lie.');
  }
  const [first] = planes;
  const last = planes[planes.length - 1];
  const position = (plane) => Array.from(plane.imagePositionPatient);
  const apart = subtract(position(last), position(first)).map((value) => value / Math.max(planes.length - 1, 1));
  const row = Array.from(first.rowCosines);
  const column = Array.from(first.columnCosines);
  return {
    size: [first.columns, first.rows, planes.length],
    steps: [
      row.map((value) => value * first.columnPixelSpacing),
      column.map((value) => value * first.rowPixelSpacing),
      planes.length > 1 ? apart : cross(row, column).map((value) => value * (first.sliceThickness ?? 1)),
    ],
    origin: position(first),
  };
}

/** A function that turns millimeters into (fractional) voxel indices of a grid. */
export function indexer({ steps, origin }) {
  const [a, b, c] = steps;
  const volume = dot(a, cross(b, c));
  const rows = [cross(b, c), cross(c, a), cross(a, b)].map((r) => r.map((value) => value / volume));
  return (point) => {
    const from = subtract(point, origin);
    return rows.map((r) => dot(r, from));
  };
}

/** Millimeters of a voxel index. */
export const positionOf = ({ steps, origin }, index) =>
  origin.map((value, axis) => value + index[0] * steps[0][axis] + index[1] * steps[1][axis] + index[2] * steps[2][axis]);

/**
 * How the voxels of one grid are found in another that is the same but for the order and direction of its axes.
 * Returns {start, strides}: voxel (i, j, k) of `to` is voxel start + i strides[0] + ... of `from`.
 * Throws an Error when the grids are not the same.
 */
export function sameVoxels(from, to) {
  const index = indexer(from);
  const corner = (i, j, k) => index(positionOf(to, [i * (to.size[0] - 1), j * (to.size[1] - 1), k * (to.size[2] - 1)]));
  const offsets = [1, from.size[0], from.size[0] * from.size[1]];
  const start = corner(0, 0, 0);
  const strides = [0, 1, 2].map((axis) => {
    const unit = [0, 0, 0];
    unit[axis] = 1;
    return subtract(index(positionOf(to, unit)), index(to.origin)).map(Math.round);
  });
  const corners = [corner(0, 0, 0), corner(1, 0, 0), corner(0, 1, 0), corner(0, 0, 1), corner(1, 1, 1)];
  const isWhole = corners.every((point) => point.every((value, axis) => {
    const nearest = Math.round(value);
    return Math.abs(value - nearest) <= TOLERANCE && nearest >= 0 && nearest < from.size[axis];
  }));
  const voxels = (grid) => grid.size[0] * grid.size[1] * grid.size[2];
  if (!isWhole || voxels(from) !== voxels(to) || strides.some((s) => s.filter(Boolean).length !== 1)) {
    throw new Error(
      `The result lies on another grid (${from.size.join('x')}) than the series shown (${to.size.join('x')}); `
      + 'open the series that the case was made from.',
    );
  }
  return {
    start: dot(start.map(Math.round), offsets),
    strides: strides.map((s) => dot(s, offsets)),
  };
}

/** The values of one grid in the order of another; see `sameVoxels`. */
export function carried(values, from, to) {
  const { start, strides } = sameVoxels(from, to);
  const result = new values.constructor(values.length);
  let at = 0;
  for (let k = 0; k < to.size[2]; k += 1) {
    for (let j = 0; j < to.size[1]; j += 1) {
      let source = start + k * strides[2] + j * strides[1];
      for (let i = 0; i < to.size[0]; i += 1, source += strides[0]) result[at++] = values[source];
    }
  }
  return result;
}
